"""A run in one thread, without Ray, clocks or waiting: every order of events and every fault is chosen from outside.

Real are the controller (controller.py, log.py, recovery.py), the workers with their stages and routes, the saver,
snapshots and files. Simulated are the arithmetic (chains.py), the network and the processes (simengine.py), time, and
who dies when (world.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from chains import blueprint
from expected import splits
from simengine import SimEngine
from world import DriverDied, Fault, World

from ffpipe.config.fields import override
from ffpipe.config.schema import Config
from ffpipe.pipeline.job import Job, Model
from ffpipe.runs.controller import carry_out
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.resumed import resumed
from ffpipe.runs.run import Result
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Pieces, Store
from ffpipe.system.errors import Diverged, Interrupted, RunFailed
from ffpipe.telemetry.report import History


class Notes(View):
    """A view that keeps what a person would have been told."""

    def __init__(self, world: World) -> None:
        self._world = world

    def note(self, text: str) -> None:
        self._world.notes.append(text)


class DriverStore(Store):
    """The snapshots, as the driver reaches them."""

    def __init__(self, root: str, world: World) -> None:
        super().__init__(root)
        self._world = world

    def write(self, name: str, pieces: Pieces) -> None:
        if name == checkpoint.OWNER:  # before anything is trained
            super().write(name, pieces)
            return
        self._world.write("driver", name)
        super().write(name, pieces)
        self._world.written(self, name)

    def remove(self, name: str) -> None:
        self._world.remove(self, name, partial(super().remove, name))

    def remove_folder(self, name: str) -> None:
        self._world.remove(self, name, partial(super().remove_folder, name))


class DriverFolder(RunFolder):
    """The run folder, as the driver writes it."""

    def __init__(self, world: World) -> None:
        super().__init__(world.folder.path)
        self._world = world

    def store(self, config: Config) -> Store:
        return DriverStore(super().store(config).root, self._world)

    def write_metrics(self, past: History, steps_per_epoch: int) -> None:
        self._world.metrics_fit = False
        self._world.write("driver", "metrics.parquet")
        self._world.rows = sorted(past.rows, key=lambda row: (row.step, row.layer))
        self._world.metrics_fit = True

    def write_summary(self, summary: dict[str, Any]) -> None:
        self._world.write("driver", "summary.json")
        if summary["status"] == "running":  # right after others were removed
            self._world.check_pruned()
        super().write_summary(summary)
        self._world.check_evaluations(summary["evaluations"], summary["steps"])
        if self._world.metrics_fit:
            self._world.check_rows(self._world.rows, summary["steps"])

    def write_past(self, past: History) -> None:
        if past != History(past.run, past.data, place=past.place):  # which it is before anything is trained
            self._world.write("driver", "past.json")
        super().write_past(past)


def make_job(config: Config, _: Model) -> Job:
    """Make the job of a network of chains."""
    return Job(config, splits(config.training), blueprint(config.training))


def play(config: Config, changes: list[dict[str, Any]], chances: bytes, faults: list[Fault], folder: Path) -> World:
    """Play a run from its start to its end, resumed with one after the other of these changes as often as it breaks
    off."""
    world = World(chances, faults, folder)
    config = override(config, {"execution.run_dir": str(folder)})
    # Real seconds for writing to a disk of which every file is thrown away.
    with mock.patch("os.fsync"):
        for process in range(len(faults) + 1):
            change = changes[process % len(changes)]
            result = _process(world, config if process == 0 else None, change)
            if result is not None:
                world.check_finished(result)
                return world
    raise AssertionError("the run broke off more often than there were faults")


def _process(world: World, first: Config | None, change: dict[str, Any]) -> Result | None:
    """Play one process that trains; return what came out of it, or nothing where it ended for a reason that it may end
    for."""
    world.begin(override(first or world.config, change))
    # As `train` and `resume` begin.
    found = None if first else resumed(world.folder.path, change)
    config, model = (found.config, found.model) if found else (world.config, Model())
    folder, view = DriverFolder(world), Notes(world)
    try:
        return carry_out(
            config, model, folder, found is not None, view, world.interrupt, lambda _: SimEngine(world), make_job
        )
    except DriverDied:
        assert world.dead
    except Interrupted:
        assert world.interrupt.wished
    except KeyboardInterrupt:
        pass  # the second one, or there was nothing to save
    except Diverged:
        assert world.diverged
    except RunFailed:
        world.check_gave_up()
    return None

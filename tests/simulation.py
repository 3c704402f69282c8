"""A run in one thread, without Ray, clocks or waiting: every order of events and every fault is chosen from outside.

Real are the controller (controller.py, log.py, recovery.py), the workers with their stages and routes, the saver,
snapshots and files. Simulated are the arithmetic (chains.py), the network and the processes (simengine.py), time, and
who dies when (world.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from chains import ChainHead, blueprint, make_feeder
from expected import splits
from simengine import HeldStream, SaverThread, SimEngine, real_write
from world import DriverDied, Fault, World

from ffpipe.config.fields import override
from ffpipe.config.schema import Config
from ffpipe.pipeline.job import Job
from ffpipe.runs.controller import resume, train
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.run import Result
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Pieces, Store
from ffpipe.system.errors import Diverged, Interrupted, RunFailed
from ffpipe.telemetry.report import History, LayerRow


class Notes(View):
    """Keeps what a person would have been told."""

    def __init__(self, world: World) -> None:
        self._world = world

    def note(self, text: str) -> None:
        self._world.notes.append(text)


real_prune = checkpoint.prune
real_remove, real_remove_folder = Store.remove, Store.remove_folder
real_write_summary = RunFolder.write_summary
real_write_past = RunFolder.write_past


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Have everything that a run would take from outside come from this world."""

    def write(store: Store, name: str, data: Pieces) -> None:
        if name == checkpoint.OWNER:  # before anything is trained
            real_write(store, name, data)
            return
        world.write("driver", name)
        real_write(store, name, data)
        world.written(store, name)

    def write_metrics(_: Path, rows: list[LayerRow], steps_per_epoch: int) -> None:
        world.metrics_fit = False
        world.write("driver", "metrics.parquet")
        world.rows = sorted(rows, key=lambda row: (row.step, row.layer))
        world.metrics_fit = True

    def write_summary(folder: RunFolder, summary: dict[str, Any]) -> None:
        world.write("driver", "summary.json")
        real_write_summary(folder, summary)
        world.check_evaluations(summary["evaluations"], summary["steps"])
        if world.metrics_fit:
            world.check_rows(world.rows, summary["steps"])

    def write_past(folder: RunFolder, past: History) -> None:
        if past != History(past.run, past.data, place=past.place):  # which it is before anything is trained
            world.write("driver", "past.json")
        real_write_past(folder, past)

    def prune(store: Store, keep: int) -> None:
        real_prune(store, keep)
        assert len(checkpoint.whole_snapshots(store)) <= keep == world.config.execution.keep_snapshots

    patches = {
        "ffpipe.storage.checkpoint.prune": prune,
        "os.fsync": lambda _: None,
        "ffpipe.storage.store.Store.write": write,
        "ffpipe.storage.store.Store.remove": lambda s, name: world.remove(s, name, lambda: real_remove(s, name)),
        "ffpipe.storage.store.Store.remove_folder": lambda s, name: world.remove(
            s, name, lambda: real_remove_folder(s, name)
        ),
        "ffpipe.runs.log.write_metrics": write_metrics,
        "ffpipe.runs.log.versions": dict,
        "ffpipe.runs.folder.RunFolder.write_summary": write_summary,
        "ffpipe.runs.folder.RunFolder.write_past": write_past,
        "ffpipe.runs.controller.make_job": lambda c, _: Job(c, splits(c.training), blueprint(c.training)),
        "ffpipe.runs.controller.time": SimpleNamespace(time=lambda: 0.0),
        "ffpipe.runs.run.time": SimpleNamespace(sleep=world.sleep),
        "ffpipe.pipeline.worker.time": SimpleNamespace(monotonic=lambda: float(world.moments)),
        "ffpipe.pipeline.worker.ItemStream": HeldStream,
        "ffpipe.data.splits.load_splits": lambda data, _: splits(world.config.training),
        "ffpipe.pipeline.saver.threading": SimpleNamespace(
            Thread=lambda target, args, daemon: SaverThread(world, target, args)
        ),
        "ffpipe.learn.blueprint.Head": ChainHead,
        "ffpipe.pipeline.feed.make_feeder": make_feeder,
    }
    with ExitStack() as stack:
        for place, what in patches.items():
            stack.enter_context(mock.patch(place, what))
        yield


def play(config: Config, changes: list[dict[str, Any]], chances: bytes, faults: list[Fault], folder: Path) -> World:
    """Play a run from its start to its end, resumed with one after the other of these changes as often as it breaks
    off."""
    world = World(chances, faults, folder)
    config = override(config, {"execution.run_dir": str(folder)})
    with simulated(world):
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
    view = Notes(world)
    try:
        if first:
            return train(world.config, view, world.interrupt, engine=lambda _: SimEngine(world))
        return resume(world.folder.path, change, view, world.interrupt, engine=lambda _: SimEngine(world))
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

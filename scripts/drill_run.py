"""`ffpipe` with stages that break things: the process that the drill starts.

    python scripts/drill_run.py PROGRAMME train CONFIG.toml
    python scripts/drill_run.py PROGRAMME resume RUN --stages 2

Every fault of the programme (drill_faults.py) is done by a stage, when it has worked a given item: where a fault falls
depends on no clock. None is passed over by a recovery, since no snapshot is whole behind an item that a stage has
not worked.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from drill_faults import Fault, Programme

import ffpipe.runs.controller
from ffpipe.commands import cli
from ffpipe.config.schema import Execution
from ffpipe.engines.ray.settings import prepare_ray
from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.job import Engine
from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Evaluate, Item, Snapshot, Train
from ffpipe.pipeline.stage import Leave
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup, make_stage
from ffpipe.telemetry.report import StageReport

# Steps between filling a disk and freeing it: more than between two snapshots.
FULL_STEPS = 100
# If no small disk could be mounted, a full one is played by a bound on the size of files; Linux's own errors, but
# "File too large" in place of "No space left on device".
LARGEST_FILE = 4096
MISSED_SECONDS = 120.0
# Seconds that a GCS is stopped: for longer than the patience of headwatch.py.
GCS_MISSED_SECONDS = 60.0


class BreakingStage:
    """A stage that does its faults of the programme. It is handed the items of a run as any other."""

    def __init__(self, setup: WorkerSetup, saver: Saver, programme: Programme) -> None:
        self.programme = programme
        self.spec = setup.spec
        self.saver = saver
        programme.tell(f"stage-{self.spec.index}", os.getpid())
        faults = list(enumerate(programme.faults))
        self.faults = {i: fault for i, fault in faults if fault.stage % self.spec.stages == self.spec.index}
        for index, fault in self.faults.items():
            if fault.kind == "set-up" and programme.happened() and programme.claim(index):
                _kill(os.getpid())
        self.stage = make_stage(setup, saver)
        self.device: torch.device = self.stage.device

    def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
        for index, fault in self.faults.items():
            if fault.kind == "snapshot" and isinstance(item, Snapshot) and item.step >= fault.step:
                self._die_before_renaming(index)
        out = self.stage.handle(item, tensors, leave)
        for index, fault in self.faults.items():
            if self._is_due(fault, item) and self.programme.claim(index):
                self._do(fault)
            if fault.kind == "disk full" and isinstance(item, Train) and item.end >= fault.step + FULL_STEPS:
                self._free(index)
        return out

    def predictions(self, item: Item) -> Predictions:
        return self.stage.predictions(item)

    def report(self) -> StageReport:
        return self.stage.report()

    def _is_due(self, fault: Fault, item: Item) -> bool:
        match fault.place:
            case "start":
                return isinstance(item, Train)
            case "snapshot":
                return isinstance(item, Snapshot) and item.step >= fault.step
            case "end":
                return isinstance(item, Train) and item.end == self.spec.steps
        match fault.kind:
            case "snapshot" | "set-up" | "cut":
                return False
            case "evaluation":
                return isinstance(item, Evaluate) and item.step >= fault.step
            case "last chunk":
                return isinstance(item, Train) and item.end == self.spec.steps
            case "two at once" if self.spec.stages == 1:
                return False
        return isinstance(item, Train) and item.end > fault.step

    def _do(self, fault: Fault) -> None:
        if fault.signal:
            os.kill(int(self.programme.told("driver")), signal.Signals[fault.signal])
            return
        act = self._acts()[fault.kind]
        if fault.delay:
            threading.Timer(fault.delay, act).start()
        else:
            act()

    def _acts(self) -> dict[str, Callable[[], None]]:
        here, raylet = os.getpid(), os.getppid()
        told = self.programme.told
        return {
            **dict.fromkeys(
                ("first chunk", "middle", "last chunk", "evaluation"),
                lambda: _kill(here),
            ),
            "two at once": lambda: _kill(int(told(f"stage-{(self.spec.index + 1) % self.spec.stages}")), here),
            "stop": lambda: os.kill(here, signal.SIGSTOP),
            "GCS stopped": self._stop_gcs,
            "GCS stopped, a stage killed": self._stop_gcs_and_die,
            **dict.fromkeys(("raylet", "raylet, no room", "only raylet"), lambda: _kill_ray(raylet)),
            "driver's raylet": lambda: _kill_ray(int(told("attached"))),
            "head": lambda: _kill_ray(int(told("gcs")), int(told("attached"))),
            "driver": lambda: _kill(int(told("driver"))),
            "disk full": self._fill,
            "disk full at the end": self._fill_for_good,
        }

    def _stop_gcs(self) -> None:
        """Stop the GCS and work no further: the run must not be through before it is missed."""
        os.kill(_gcs_of(int(self.programme.told("driver"))), signal.SIGSTOP)
        time.sleep(GCS_MISSED_SECONDS)

    def _stop_gcs_and_die(self) -> None:
        os.kill(_gcs_of(int(self.programme.told("driver"))), signal.SIGSTOP)
        _kill(os.getpid())

    def _die_before_renaming(self, index: int) -> None:
        """Die when the next file of a snapshot has been written under its temporary name."""

        def fsync(_: int) -> None:
            if self.programme.claim(index):
                _kill(os.getpid())

        os.fsync = fsync  # type: ignore[assignment]  # in this process, whose last act it is

    def _fill_for_good(self) -> None:
        """Fill the disk up to the bound too, since the driver makes room by removing what can't become a whole
        snapshot."""
        self._fill()
        self._bound()

    def _bound(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, resource.RLIM_INFINITY))

    def _fill(self) -> None:
        self.saver.wait()
        disk = self.programme.told("disk")
        if not disk:
            self._bound()
            return
        with open(Path(disk) / "filler", "wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:  # full for blocks of this size
                    continue

    def _free(self, index: int) -> None:
        if self.programme.claim(index, "freed"):
            self.saver.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if disk := self.programme.told("disk"):
                (Path(disk) / "filler").unlink()


def _gcs_of(driver: int) -> int:
    """Find the GCS of the cluster that a driver has started."""
    children = [
        int(each) for path in Path(f"/proc/{driver}/task").glob("*/children") for each in path.read_text().split()
    ]
    return next(each for each in children if "gcs_server" in Path(f"/proc/{each}/cmdline").read_text())


def _kill(*processes: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _kill_ray(*processes: int) -> None:
    """Kill processes of Ray, and then work no further: the run must not be through before they are missed."""
    _kill(*processes)
    time.sleep(MISSED_SECONDS)


@dataclass(frozen=True)
class MakeBreakingStage:
    """The function by which a worker makes its stage."""

    folder: Path

    def __call__(self, setup: WorkerSetup, saver: Saver) -> BreakingStage:
        return BreakingStage(setup, saver, Programme(self.folder))


def main() -> int:
    programme = Programme(Path(sys.argv[1]))
    programme.tell("driver", os.getpid())
    prepare_ray()
    from ffpipe.engines.ray.engine import RayEngine

    def make_engine(execution: Execution) -> Engine:
        return RayEngine(Parts(stage=MakeBreakingStage(programme.folder)))

    ffpipe.runs.controller.make_engine = make_engine
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())

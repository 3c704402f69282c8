"""Runs that something happens to: their config, what disturbs them, and what must come of them all the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ffpipe import Config, Interrupt, Result, override, recipe
from ffpipe.config.schema import Execution
from ffpipe.engines.local import LocalEngine
from ffpipe.pipeline.job import Engine, Model
from ffpipe.runs.controller import MakeEngine, carry_out, make_engine
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.resumed import resumed
from ffpipe.runs.view import View
from ffpipe.storage.store import Store
from ffpipe.telemetry.report import StageReport

EPOCHS = 6
STEPS = 28 * EPOCHS
# Fields of a run of 56 steps, and of one in whose midst there is time to kill a process.
QUICK = {"execution.engine": "local", "execution.stages": 1, "training.epochs": 2, "execution.evaluate_every": 0}
LONG = {"training.epochs": 20, "execution.snapshot_steps": 50, "execution.evaluate_every": 7}


def config(run_dir: Path, **fields: Any) -> Config:
    """Return three layers, hard negatives, 168 steps, a snapshot every 20."""
    plain = {
        "training.epochs": EPOCHS,
        "training.dims": [64, 90, 70, 50],
        "execution.snapshot_steps": 20,
        "execution.evaluate_every": 4,
        "execution.stages": 3,
        "execution.back_off": 0.1,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits"), {**plain, **fields})


def own_data(file: Path, seed: int) -> dict[str, object]:
    """Write a data set. Returns the fields of a run that trains on it."""
    images = np.random.default_rng(seed).integers(0, 256, (400, 4), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(400) % 3)
    fields = {"data.source": "npz", "data.train": [str(file)], "data.test_count": 50, "dims": [4, 8, 8, 8]}
    return {f"training.{name}": value for name, value in fields.items()}


def same(result: Result, undisturbed: Result) -> None:
    """Check that weights, errors and every row of metrics are the same."""
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert result.test_error_goodness == undisturbed.test_error_goodness
    assert result.test_error_softmax == undisturbed.test_error_softmax
    assert result.summary["evaluations"] == undisturbed.summary["evaluations"]
    assert result.summary["status"] == "finished"
    assert result.summary["steps"] == undisturbed.summary["steps"]
    metrics = [pq.read_table(run.run_dir / "metrics.parquet").to_pylist() for run in (result, undisturbed)]
    assert metrics[0] == metrics[1]


class Disturb(View):
    """A view that does something to the run when it has come to a step."""

    def __init__(self, step: int, what: Callable[[], None]) -> None:
        self.step = step
        self.what = what
        self.done = False
        self.notes: list[str] = []

    def report(self, report: StageReport) -> None:
        if report.step >= self.step and not self.done:
            self.done = True
            self.what()

    def note(self, text: str) -> None:
        self.notes.append(text)


class GivenStore(RunFolder):
    """A run folder of which the snapshots go through a store of the test's own. make: makes it of its root."""

    def __init__(self, path: Path, make: Callable[[str], Store]) -> None:
        super().__init__(path)
        self._make = make

    def store(self, config: Config) -> Store:
        return self._make(super().store(config).root)


def train_in(
    folder: RunFolder,
    config: Config,
    view: View | None = None,
    interrupt: Interrupt | None = None,
    engine: MakeEngine = make_engine,
) -> Result:
    """Train as `ffpipe.train` does, in a run folder of the test's own."""
    return carry_out(config, Model(), folder, False, view or View(), interrupt or Interrupt(), engine)


def reports_each_step(_: Execution) -> Engine:
    """Make an engine with which a view hears of each step."""
    return LocalEngine(report_seconds=0.0)


def resume_in(folder: RunFolder, changes: dict[str, Any]) -> Result:
    """Go on as `ffpipe.resume` does."""
    found = resumed(folder.path, changes)
    return carry_out(found.config, found.model, folder, True, View(), Interrupt(), make_engine)


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_in(folder: Path) -> dict[str, bytes]:
    """Read all that is in a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

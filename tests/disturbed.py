"""Runs that something happens to: their config, what disturbs them, and what must come of them all the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ffpipe import Config, Result, override, recipe
from ffpipe.runs.view import View
from ffpipe.telemetry.report import StageReport

STEPS = 28 * 60
# Fields of a run of 56 steps.
QUICK = {"execution.engine": "local", "execution.stages": 1, "training.epochs": 2, "execution.evaluate_every": 0}


def config(run_dir: Path, **fields: Any) -> Config:
    """Return three layers, hard negatives, 1,680 steps, a snapshot every 50."""
    plain = {
        "training.epochs": 60,
        "training.dims": [64, 90, 70, 50],
        "execution.snapshot_steps": 50,
        "execution.evaluate_every": 7,
        "execution.stages": 3,
        "execution.back_off": 0.1,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits"), {**plain, **fields})


def same(result: Result, undisturbed: Result) -> None:
    """Check that weights, errors and every row of metrics are the same."""
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert result.test_error_goodness == undisturbed.test_error_goodness
    assert result.test_error_softmax == undisturbed.test_error_softmax
    assert result.summary["evaluations"] == undisturbed.summary["evaluations"]
    assert result.summary["status"] == "finished"
    assert result.summary["steps"] == STEPS
    metrics = [pq.read_table(run.run_dir / "metrics.parquet").to_pylist() for run in (result, undisturbed)]
    assert metrics[0] == metrics[1]


class Disturb(View):
    """Does something to the run when it has come to a step."""

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


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)

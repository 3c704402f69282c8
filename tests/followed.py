"""Small runs that are followed, and callbacks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffpipe import Callback, Config, Evaluation, LayerRow, RunStart, Speed, override, recipe

SMALL = {"training.dims": [64, 20, 20], "training.epochs": 4, "execution.engine": "local", "execution.log_steps": 14}


def small(folder: Path, **fields: object) -> Config:
    given = {f"execution.{name}": value for name, value in fields.items()}
    return override(
        recipe("digits"), {**SMALL, "execution.evaluate_every": 2, "execution.run_dir": str(folder), **given}
    )


class Diary(Callback):
    """All that a callback is told."""

    def __init__(self) -> None:
        self.started: list[RunStart] = []
        self.rows: list[LayerRow] = []
        self.tests: list[Evaluation] = []
        self.speeds: list[Speed] = []
        self.ends: list[Mapping[str, Any]] = []

    def on_start(self, run: RunStart) -> None:
        self.started.append(run)

    def on_row(self, row: LayerRow) -> None:
        self.rows.append(row)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.tests.append(evaluation)

    def on_speed(self, speed: Speed) -> None:
        self.speeds.append(speed)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.ends.append(summary)


class StopAt(Callback):
    """The end of the run at the evaluation after a step, said twice, which changes nothing."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_start(self, run: RunStart) -> None:
        self._run = run

    def on_evaluation(self, evaluation: Evaluation) -> None:
        if evaluation.step == self._step:
            self._run.stop()
            self._run.stop()

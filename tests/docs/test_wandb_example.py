"""The example for Weights & Biases in docs/callbacks.md, with a stand-in for its package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fenced import fences
from repository import REPOSITORY

from ffpipe import Evaluation, LayerRow, RunStart, recipe
from ffpipe.telemetry.callbacks import Callbacks


class FakeWandb(ModuleType):
    """The package wandb as far as its rule on steps goes: what comes with an earlier step than before is dropped."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.kept: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.axes: dict[str, str | None] = {}
        self._step = 0

    def init(self, **_: object) -> None:
        """Begin a run."""

    def finish(self) -> None:
        """End a run."""

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        self._step = self._step + 1 if step is None else step
        if not self.kept or self._step >= self.kept[-1]["_step"]:
            self.kept.append({**data, "_step": self._step})


def test_the_example_for_weights_and_biases_loses_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    page = (REPOSITORY / "docs" / "callbacks.md").read_text(encoding="utf-8")
    (code,) = [fence.text for fence in fences(page) if "import wandb" in fence.text]
    names: dict[str, Any] = {}
    exec(code.partition("\nffpipe.train(")[0], names)
    callbacks = Callbacks([names["ToWandb"]()], complain=lambda name, error: pytest.fail(f"{name}: {error}"), end=print)
    callbacks.tell("on_start", RunStart(Path("run"), recipe("digits"), 30, 10, 0, ("a", "b"), ((0,), (1,)), print))
    # The first stage is ahead of the last one.
    rows = [LayerRow(step, layer, 0.5, 0.1, 0.1, 0.2) for layer in (0, 1) for step in (10, 20, 30)]
    for row in rows:
        callbacks.tell("on_row", row)
    callbacks.tell("on_evaluation", Evaluation(10, "validation", 9, 0.4, 0.3))
    callbacks.tell("on_end", {"weights_sha256": "0", "status": "finished"})
    found = [(each["step"], name) for each in wandb.kept for name in each if name.startswith("loss/")]
    assert found == [(row.step, f"loss/block {row.layer}") for row in rows]
    assert wandb.kept[-1]["validation error/softmax"] == 0.3
    assert wandb.axes["*"] == "step"

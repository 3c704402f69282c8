"""Bodies that draw random numbers, of whatever generator and in evaluations too: the same ones in every engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffpipe
from ffpipe.system.rng import process_seeded


class Drawing(nn.Module):
    """A linear layer whose outputs are changed by what one of the generators gives, in evaluation mode too."""

    def __init__(self, kind: str, inputs: int, width: int) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(inputs, width), kind

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear(x.flatten(1))
        if self.kind == "torch":
            return nn.functional.dropout(h, 0.5)
        if self.kind == "numpy":
            return h * torch.from_numpy(np.random.rand(*h.shape)).float()  # noqa: NPY002
        return h * random.random()


def trained(run: Path, model: Callable[[], list[Any]], negatives: str, **execution: Any) -> ffpipe.Result:
    fields = {
        "training.epochs": 2,
        "training.data.train_limit": 120,
        "training.batch_size": 20,
        "training.negatives": negatives,
        "execution.run_dir": str(run),
        "execution.evaluate_every": 1,
        "execution.stages": 1,
    }
    if negatives != "none":
        fields |= {"training.labels": "overlay", "training.head": True, "training.negative_lag": 2}
    given = fields | {f"execution.{name}": value for name, value in execution.items()}
    return ffpipe.train(ffpipe.override(ffpipe.recipe("digits-cnn"), given), model=model)


def network(kind: str) -> list[Any]:
    return [lambda inputs: ffpipe.Local(Drawing(kind, inputs.size, 30)), ffpipe.Local(Drawing(kind, 30, 20))]


def dropout() -> list[Any]:
    return network("torch")


@pytest.mark.parametrize(
    ("kind", "negatives"),
    [("torch", "random"), pytest.param("numpy", "none", marks=pytest.mark.long), ("random", "none")],
)
def test_engines_agree(kind: str, negatives: str, tmp_path: Path) -> None:

    def model() -> list[Any]:
        return network(kind)

    local = trained(tmp_path / "local", model, negatives, engine="local")
    for engine, stages, chunk in (("layerwise", 2, 1), ("local", 2, 3)):
        found = trained(tmp_path / f"{engine} {stages}", model, negatives, engine=engine, stages=stages, chunk=chunk)
        assert found.weights_sha256 == local.weights_sha256
        assert found.summary["evaluations"] == local.summary["evaluations"]


def test_evaluations_are_the_same_each_time(tmp_path: Path) -> None:
    trained(tmp_path / "run", dropout, "none", engine="local")
    first, again = (ffpipe.evaluate(tmp_path / "run", model=dropout) for _ in range(2))
    assert first == again


def drawn() -> tuple[float, float]:
    return random.random(), np.random.rand()  # noqa: NPY002


def test_generators_of_the_process_are_put_back() -> None:
    with process_seeded(1):
        expected = drawn()
    with process_seeded(1):
        with process_seeded(3):
            inside = drawn()
        assert drawn() == expected
    with process_seeded(3):
        assert drawn() == inside != expected

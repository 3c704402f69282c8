"""Images of one pixel or channel, whose order of dimensions torch cannot tell: a cut beside them changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffpipe import Block, Learned, RowSpec, override, recipe, train
from ffpipe.learn.block import Step
from ffpipe.learn.spec import RowLayout

FIELDS = {
    "training.epochs": 1,
    "training.memory_format": "channels-last",
    "training.negatives": "none",
    "training.labels": "none",
    "training.head": False,
    "training.goodness_from": 0,
    "training.optimizer.kind": "Adam",
    "execution.engine": "local",
}


class Square(nn.Module):
    """Digits as images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 1, 8, 8)


def pooled() -> list[nn.Module]:
    """Make blocks with an edge of (33, 1, 1)."""
    convolution = nn.Sequential(Square(), nn.Conv2d(1, 33, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return [convolution, nn.Sequential(nn.BatchNorm2d(33), nn.Conv2d(33, 8, 1))]


def narrow() -> list[nn.Module]:
    """Make blocks with an edge of (1, 6, 6)."""
    convolution = nn.Sequential(Square(), nn.Conv2d(1, 1, 3), nn.ReLU())
    return [convolution, nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3))]


class Smoothing(Block):
    """A block of one's own that makes images, by a view of `out` and by a copy of it that it takes for a view."""

    def __init__(self, index: int, inputs: RowSpec) -> None:
        super().__init__()
        self.index, self.inputs, self.outputs = index, inputs, RowSpec((4, 8, 8), torch.float32)
        self.register_buffer("scale", torch.ones(4))
        self.scale: Tensor

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, None]:
        return x.reshape(-1, 1, 8, 8) * self.scale.view(4, 1, 1), None

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Any = ()) -> None:
        out.copy_(self.score(x)[0])

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        out.view(len(out), -1).copy_(self.score(x)[0].flatten(1))
        out.flatten(1).mul_(2)
        self.scale.add_(0.01 * self.scale)
        return Learned(self.scale.sum(), torch.zeros((), dtype=torch.int64))


def of_ones_own() -> list[Any]:
    """Make blocks with an edge of (4, 8, 8) behind one that computes its own update."""
    return [lambda inputs: Smoothing(0, inputs), nn.Conv2d(4, 8, 3)]


@pytest.mark.parametrize("blocks", [pooled, narrow, of_ones_own])
def test_a_cut_changes_no_bit(blocks: object, tmp_path: Path) -> None:
    def digest(stages: int) -> str:
        fields = {**FIELDS, "execution.stages": stages, "execution.run_dir": str(tmp_path / str(stages))}
        return train(override(recipe("digits"), fields), model=blocks).weights_sha256  # type: ignore[arg-type]

    assert digest(1) == digest(2)

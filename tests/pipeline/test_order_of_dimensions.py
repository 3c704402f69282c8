"""Images of one pixel or channel, whose order of dimensions torch cannot tell: a cut beside them changes no bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ffpipe import override, recipe, train

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


@pytest.mark.parametrize("blocks", [pooled, narrow])
def test_a_cut_changes_no_bit(blocks: object, tmp_path: Path) -> None:
    def digest(stages: int) -> str:
        fields = {**FIELDS, "execution.stages": stages, "execution.run_dir": str(tmp_path / str(stages))}
        return train(override(recipe("digits"), fields), model=blocks).weights_sha256  # type: ignore[arg-type]

    assert digest(1) == digest(2)

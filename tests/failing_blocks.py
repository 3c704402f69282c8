"""Blocks of a user's that fail when they are told to, and small runs of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffpipe import Config, RunFailed, override, recipe, train

WIDTH, STEPS, CLASSES = 12, 4, 10
Does = Callable[[], object]
Model = Callable[[], list[Any]]


def config(run_dir: Path, **fields: Any) -> Config:
    plain = {
        "training.epochs": 1,
        "training.data.train_limit": STEPS * recipe("digits-cnn").training.batch_size,
        "execution.engine": "local",
        "execution.stages": 2,
        "execution.back_off": 0,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits-cnn"), {**plain, **fields})


def fail() -> None:
    raise LookupError("not there")


class Failing(nn.Module):
    """A layer that does something at a step of training, which a buffer counts, or at: None in evaluation mode."""

    seen: Tensor

    def __init__(self, does: Does, at: int | None) -> None:
        super().__init__()
        self.layer, self.does, self.at = nn.Linear(WIDTH, WIDTH), does, at
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and not (x == 1).all():  # neither where shapes are worked out nor where costs are measured
            if self.seen == self.at if self.training else self.at is None:
                self.does()
            self.seen += self.training
        made: Tensor = self.layer(x)
        return made


def model(*blocks: object) -> list[Any]:
    """Return a first block that does nothing unforeseen, and others behind it."""
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH)), *blocks]


def failing(does: Does = fail, at: int | None = STEPS - 1) -> Model:
    return lambda: model(Failing(does, at), nn.Linear(WIDTH, CLASSES))


def error_of(made: Model, run_dir: Path, **fields: Any) -> str:
    """Return the line with which a run ends."""
    with pytest.raises(RunFailed) as raised:
        train(config(run_dir, **fields), model=made)
    return str(raised.value)

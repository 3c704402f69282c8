"""A small network of every kind of block, each of three blocks at least, for tests that hold for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ffpipe import BlockConfig, Config, Data, Optimizer, recipe

ADAM = Optimizer(kind="Adam", learning_rate=0.003, weight_decay=0.0001)
FUSED = replace(ADAM, options={"fused": True})
# A network of the user's own, in a file outside the package: a residual body, a loss of its own, dropout.
OWN = '''
import ffpipe
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two, self.drop = nn.Linear(width, width), nn.Linear(width, width), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.two(torch.tanh(self.one(x))))


class Centres(nn.Module):
    """Squared distances to a centre of each class, which is learned with the block."""

    def __init__(self, width):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(10, width) * 0.1)

    def forward(self, h, labels):
        return nn.functional.cross_entropy(-torch.cdist(h, self.centres).square(), labels)


def blocks(width: int = 24):
    return [
        nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU()),
        lambda: ffpipe.Local(Residual(width), objective=Centres(width), schedule="constant"),
        ffpipe.Local(Residual(width), optimizer=ffpipe.Optimizer(kind="SGD", learning_rate=0.05)),
    ]
'''


def _block(kind: str, fields: dict[str, Any] | None = None, **options: bool | int | float | str) -> BlockConfig:
    return BlockConfig(kind=kind, options=options, **(fields or {}))


def _head(**options: bool | int | float | str) -> dict[str, Any]:
    return {"objective_options": options}


def _conv_groups() -> tuple[BlockConfig, ...]:
    return (
        _block("conv", _head(kind="groups-squared"), channels=10),
        _block("conv", _head(kind="groups-squared"), channels=20, groups=10, pool=2),
        _block("conv", _head(kind="groups"), channels=20),
    )


def _conv_norm_dropout() -> tuple[BlockConfig, ...]:
    return (
        _block("conv", channels=8, dropout=0.1),
        _block("conv", _head(pool=2), channels=12, pool=2, dropout=0.2),
        _block("dense", {"first_epoch": 1}, width=24, dropout=0.3),
    )


def _residual_and_skip() -> tuple[BlockConfig, ...]:
    return (
        _block("conv", {"keep": "early"}, channels=8),
        _block("vgg", plan="6 8"),
        _block("residual", {"use": ("early",), **_head(kind="mlp", depth=1)}, channels=8),
        _block("dense", width=16),
    )


def _receptive_fields() -> tuple[BlockConfig, ...]:
    return (
        _block("receptive-fields", channels=8, kernel=3),
        _block("receptive-fields", channels=12, kernel=3),
        _block("receptive-fields", channels=16, kernel=2, stride=2),
    )


def _narrow() -> tuple[BlockConfig, ...]:
    return _block("dense", width=15), _block("dense", width=11), _block("readout")


def _transformer() -> tuple[BlockConfig, ...]:
    return (
        _block("transformer", width=16, heads=2, symbols=17, dropout=0.1),
        _block("transformer", width=16, heads=2),
        _block("transformer", width=16, heads=4),
    )


PLAIN: dict[str, Any] = {
    "negatives": "none",
    "head": False,
    "optimizer": ADAM,
    "schedule": "onecycle",
    "labels": "none",
}
# Within a stage images lie in the order in which the next block reads them, in messages they do not.
IN_ORDER = {"memory_format": "channels-last"}
KINDS: dict[str, dict[str, Any]] = {
    "dense closed form": {"negative_lag": 8},
    "receptive fields": {"blocks": _receptive_fields(), "optimizer": ADAM, "labels": "overlay", "negative_lag": 9},
    "conv with channel groups": {"blocks": _conv_groups(), **PLAIN},
    "conv, batch norm, dropout": {"blocks": _conv_norm_dropout(), **PLAIN, "head": True, **IN_ORDER},
    # Fused steps take weights, gradients and state as they lie in memory.
    "residual and skip": {"blocks": _residual_and_skip(), **PLAIN, **IN_ORDER, "optimizer": FUSED},
    "transformer on tokens": {"blocks": _transformer(), **PLAIN, "inputs": "tokens"},
    # Minibatches of a chunk, and shards behind others, do not begin at a multiple of 16 bytes.
    "rows that begin anywhere": {"blocks": _narrow(), **PLAIN, "batch_size": 50},
    "own module": {"model": "own.py:blocks", "model_options": {"width": 24}, **PLAIN},
}


def network(kind: str, folder: Path) -> Config:
    """Configure two epochs of 14 steps of a small network on digits, or on tokens. folder: for files."""
    config = recipe("digits")
    fields: dict[str, Any] = {"dims": (64, 40, 30, 20), "epochs": 2, "seed": 3, **KINDS[kind]}
    data = replace(config.training.data, train_limit=14 * fields.get("batch_size", config.training.batch_size))
    training = replace(config.training, data=data, **fields)
    if training.model:
        (folder / "own.py").write_text(OWN)
        training = replace(training, model=f"{folder / 'own.py'}:blocks")
    if training.inputs == "tokens":
        training = replace(training, data=_tokens(folder))
    execution = replace(config.execution, evaluate_every=0, stages=0)
    return replace(config, training=training, execution=execution)


def _tokens(folder: Path) -> Data:
    path = folder / "tokens.npz"
    if not path.exists():
        ids = np.random.default_rng(1).integers(0, 17, size=(800, 13), dtype=np.uint8)
        ids[:, 1::2] = ids[:, ::2][:, : ids[:, 1::2].shape[1]]  # every second token can be known
        labels = np.arange(800, dtype=np.int64) % 17
        np.savez(path, x_train=ids, y_train=labels)
    return Data(source="npz", train=(str(path),), classes=17, test_count=100, validation=0)

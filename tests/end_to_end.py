"""Configs of the yardstick, blocks that are trained end to end, and what its runs come to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ffpipe import Config, Result, override, recipe
from ffpipe.config.schema import BlockConfig

CPU = torch.device("cpu")
# A body with every kind of thing that it may have: running statistics, dropout, an output that a later block uses.
BLOCKS = (
    BlockConfig(kind="conv", options={"channels": 8, "pool": 2}, keep="a"),
    BlockConfig(kind="residual", options={"channels": 8}, use=("a",)),
    BlockConfig(kind="dense", options={"width": 30, "dropout": 0.2}, objective_options={"smoothing": 0.1}),
)
NO_NEGATIVES = {"negatives": "none", "labels": "none", "head": False, "goodness_from": 0}


def config(run_dir: Path, **fields: object) -> Config:
    plain = {
        "training.method": "backprop",
        "training.epochs": 6,
        "execution.evaluate_every": 2,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits"), {**plain, **fields})


def of_blocks(run_dir: Path, **fields: Any) -> Config:
    """Return two epochs of BLOCKS. fields: of training."""
    plain = config(run_dir, **{"training.epochs": 2, "execution.evaluate_every": 0})
    return replace(plain, training=replace(plain.training, **{"blocks": BLOCKS, **fields}))


def evaluations(result: Result) -> list[tuple[int, str, float]]:
    """Return step, split and error by the last block of each."""
    return [(e["step"], e["split"], e["errors"]["last"]) for e in result.summary["evaluations"]]


def summary_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))

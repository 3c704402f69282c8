"""Networks of every kind that are trained for an epoch, to be read afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ffpipe
from ffpipe.config.schema import BlockConfig, Optimizer


def kinds(run_dir: Path, model: Callable[[], list[ffpipe.Local]] | None = None, **fields: Any) -> ffpipe.Result:
    """Return a run of one epoch."""
    config = ffpipe.recipe("digits")
    training = replace(config.training, epochs=1, optimizer=Optimizer(kind="Adam", learning_rate=0.003), **fields)
    execution = replace(config.execution, engine="local", stages=1, run_dir=str(run_dir))
    return ffpipe.train(replace(config, training=training, execution=execution), model=model)


CONV = BlockConfig(kind="conv", options={"channels": 8, "pool": 2}, keep="a")


RESIDUAL = BlockConfig(kind="residual", options={"channels": 8}, use=("a",))


DENSE = BlockConfig(kind="dense", options={"width": 30, "dropout": 0.2})


# By what makes them: the fields, and the read-outs that there are, the default first.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "dense layers with pairs of rows": ({"dims": (64, 60, 50, 40)}, ("softmax", "goodness")),
    "blocks without negatives": (
        {"blocks": (CONV, RESIDUAL, DENSE), "negatives": "none", "standardize": True},
        ("last", "sum", "softmax"),
    ),
    "blocks with pairs of rows": (
        {"blocks": (CONV, RESIDUAL), "negatives": "random", "labels": "planes"},
        ("softmax", "goodness"),
    ),
    "without a read-out of its own": (
        {"dims": (64, 40, 30), "negatives": "none", "readout": "sum", "head": False},
        ("sum", "last"),
    ),
    "one block": ({"dims": (64, 40), "negatives": "none", "head": False}, ("last",)),
    "backpropagation": ({"dims": (64, 40, 30), "method": "backprop"}, ("last",)),
    "bfloat16": ({"dims": (64, 40, 30), "negatives": "none", "precision": "bfloat16"}, ("last", "sum", "softmax")),
}

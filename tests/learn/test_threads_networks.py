"""The number of threads does not change a bit of the weights of any network.

A sum is cut for threads by its shape, so networks are drawn by chance: narrow, odd and wide layers, small
and large odd minibatches, every rule of training. The first ten are short, the others of all two hundred long.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import only

from ffpipe import Config, override, recipe, train
from ffpipe.config.optimizer import torch_optimizers

pytestmark = pytest.mark.usefixtures("threads_put_back")

BY_DEFAULT, ALL = 6, 200
STEPS = 4
# Averaging as often as most others together, and the other paths of torch's optimisers; a rate at which none diverges.
OPTIMIZERS: list[dict[str, Any]] = [
    *({"kind": "averaging"} for _ in range(8)),
    *({"kind": kind, "learning_rate": 0.001} for kind in torch_optimizers()),
    {"kind": "SGD", "learning_rate": 0.001, "options": {"momentum": 0.9, "nesterov": True}},
    *({"kind": kind, "learning_rate": 0.001, "options": {"fused": True}} for kind in ("Adam", "AdamW", "SGD")),
    *({"kind": kind, "learning_rate": 0.001, "options": {"foreach": True}} for kind in ("Adam", "RMSprop")),
    {"kind": "Adam", "learning_rate": 0.001, "options": {"amsgrad": True}},
]


def network(seed: int) -> Config:
    """Draw a network by the seed, the same on every machine."""
    chance = random.Random(seed)
    precision = chance.choice(["float32", "float32", "float64", "bfloat16"])
    narrow, odd = (lambda: chance.randint(1, 12)), (lambda: chance.randint(13, 160))
    wide = odd if precision == "bfloat16" else (lambda: chance.randint(161, 900))  # slow where the processor has none
    widths: list[Callable[[], int]] = [narrow, odd, odd, wide]
    layers = chance.randint(1, 3)
    batch = chance.choice([chance.randint(1, 9), chance.randint(10, 130), chance.randint(10, 130)])
    if chance.random() < 0.15:
        batch = chance.randint(200, 350)
    labels = chance.choice(["overlay", "append", "append", "none"])
    head = labels == "none" or chance.random() < 0.7
    of_head = ["hard", "hard", "adaptive"] if head else []
    negatives = chance.choice(["hybrid", "others"] if labels == "none" else ["random", "fixed", "shuffled", *of_head])
    # Negatives of other classes take a minibatch from nearly a third of the examples.
    examples = max(40, 5 * batch) if negatives == "others" else STEPS * batch
    objective = chance.choice(["hinton", "softplus", "symba"])
    fields: dict[str, Any] = {
        "training.dims": [64, *(chance.choice(widths)() for _ in range(layers))],
        "training.precision": precision,
        "training.batch_size": batch,
        "training.epochs": 1,
        "training.seed": seed,
        "training.labels": labels,
        "training.head": head,
        "training.head_from": 0,
        "training.goodness_from": 0,
        "training.negatives": negatives,
        "training.negative_lag": chance.randint(0, 2),
        "training.objective": objective,
        "training.goodness": chance.choice(["sum", "mean"]),
        "training.normalization": chance.choice(["rms", "l2"]),
        "training.initialization": chance.choice(["normal", "glorot"]),
        "training.dropout": chance.choice([0.0, 0.0, 0.1, 0.5]),
        "training.jitter": chance.choice([0, 0, 1]),
        "training.peer": chance.choice([0.0, 0.03]),
        "training.local_steps": chance.choice([1, 1, 2]),
        "training.phases": "together" if objective == "symba" else chance.choice(["together", "together", "apart"]),
        "training.hand_on": chance.choice(["before", "before", "after"]),
        "training.data.train_limit": examples,
        "training.data.validation": 0,
        "training.data.test_count": 11,
        "training.data.positive_classes": 7 if negatives == "others" else 0,
        "execution.engine": "local",
        "execution.stages": chance.randint(1, layers),
        "execution.evaluate_every": 0,
    }
    for which in ("optimizer", "head_optimizer"):
        chosen = {"learning_rate": 0.01, "weight_decay": chance.choice([0.0, 0.001]), "options": {}}
        chosen |= chance.choice(OPTIMIZERS)
        if chosen["kind"] == "Rprop":  # which knows none
            chosen["weight_decay"] = 0.0
        fields |= {f"training.{which}.{name}": value for name, value in chosen.items()}
    return override(recipe("digits"), fields)


def digest(config: Config, threads: int, run_dir: Path) -> str:
    torch.set_num_threads(threads)
    return train(override(config, {"execution.run_dir": str(run_dir)})).weights_sha256


@pytest.mark.parametrize("seed", only(range(BY_DEFAULT), range(ALL)))
def test_same_weights(seed: int, tmp_path: Path) -> None:
    config = network(seed)
    one = digest(config, 1, tmp_path / "one")
    for threads in (2, 3) if seed % 4 == 0 else (2,):
        assert digest(config, threads, tmp_path / str(threads)) == one, (threads, config.training)

"""The networks on which ffpipe and others are timed side by side, as configs of ffpipe."""

from __future__ import annotations

from typing import Any

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import BlockConfig, Config, Data, Execution, Optimizer, Training

BATCH, EXACT_BATCH = 128, 100
# Minibatches before the clock of a contender starts: allocators and connections warm up.
WARM_UP = 3
NETWORKS = ("dense", "dense-2000", "dgl")
WIDTHS = {"dense": 1000, "dense-2000": 2000}


def config_of(network: str, steps: int) -> Config:
    """Return a network without negatives, each of its blocks with a class head, and data for so many steps: MNIST
    through four dense layers, or CIFAR-10 through the network of decoupled greedy learning."""
    if network == "dgl":
        return override(get_recipe("dgl"), _of_steps(steps))
    block = BlockConfig(kind="dense", options={"width": WIDTHS[network]})
    training = Training(
        blocks=(block,) * 4,
        labels="none",
        negatives="none",
        head=False,
        goodness_from=0,
        optimizer=Optimizer(kind="Adam", learning_rate=0.0005, options={"fused": True}),
        data=Data(source="mnist"),
    )
    made = Config(recipe=network, training=training, execution=Execution(keep_freed=True))
    return override(made, _of_steps(steps))


def contrasting(network: str, steps: int) -> Config:
    """Return the dense network as Forward-Forward layers with hard negatives."""
    layers = {"training.dims": [784, *[WIDTHS[network]] * 4], "training.precision": "float32"}
    return override(get_recipe("hinton"), {**layers, **_of_steps(steps)})


def exact(network: str, steps: int) -> Config:
    """Return `hinton-exact` for so many steps of its 100 images, whatever the network's name."""
    data = {"training.data.train_limit": steps * EXACT_BATCH, "training.batch_size": EXACT_BATCH}
    return override(get_recipe("hinton-exact"), {**_of_steps(steps), **data})


def learning(network: str, kind: str, epochs: int, run_dir: str) -> Config:
    """Return a network that learns from all training images but 5,000, which validate after each epoch.

    kind: "heads", "contrast" (hard negatives) or "backprop" (the blocks of "heads" end to end).
    """
    made = contrasting(network, 1) if kind == "contrast" else config_of(network, 1)
    fields: dict[str, Any] = {
        "training.epochs": epochs,
        "training.data.train_limit": 0,
        "training.data.validation": 5000,
        "execution.engine": "local",
        "execution.stages": 1,
        "execution.evaluate_every": 1,
        "execution.run_dir": run_dir,
    }
    return override(made, fields | ({"training.method": "backprop"} if kind == "backprop" else {}))


def _of_steps(steps: int) -> dict[str, Any]:
    """Return the fields of a run of so many steps that does nothing but train."""
    return {
        "training.epochs": 1,
        "training.batch_size": BATCH,
        "training.data.train_limit": steps * BATCH,
        "training.data.validation": 0,
        "execution.evaluate_every": 0,
        "execution.snapshot_steps": 0,
        "execution.snapshot_seconds": 0,
    }

"""The networks on which ffpipe and others are timed side by side, as configs of ffpipe."""

from __future__ import annotations

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import BlockConfig, Config, Data, Optimizer, Training

BATCH = 128
NETWORKS = ("dense", "dense-2000", "dgl")
WIDTHS = {"dense": 1000, "dense-2000": 2000}


def config_of(network: str, steps: int) -> Config:
    """A network without negatives, each of its blocks with a class head, and data for so many steps: MNIST through four
    dense layers, or CIFAR-10 through the network of decoupled greedy learning."""
    data = {
        "training.epochs": 1,
        "training.data.train_limit": steps * BATCH,
        "training.data.validation": 0,
        "execution.evaluate_every": 0,
        "execution.snapshot_steps": 0,
        "execution.snapshot_seconds": 0,
    }
    if network == "dgl":
        return override(get_recipe("dgl"), {**data, "training.batch_size": BATCH})
    block = BlockConfig(kind="dense", options={"width": WIDTHS[network]})
    training = Training(
        blocks=(block,) * 4,
        labels="none",
        negatives="none",
        head=False,
        goodness_from=0,
        batch_size=BATCH,
        optimizer=Optimizer(kind="Adam", learning_rate=0.0005),
        data=Data(source="mnist"),
    )
    return override(Config(recipe=network, training=training), data)


def contrasting(network: str, steps: int) -> Config:
    """The dense network as Forward-Forward layers with hard negatives."""
    config = override(get_recipe("hinton"), {"training.dims": [784, *[WIDTHS[network]] * 4]})
    return override(
        config,
        {
            "training.precision": "float32",
            "training.batch_size": BATCH,
            "training.epochs": 1,
            "training.data.train_limit": steps * BATCH,
            "training.data.validation": 0,
            "execution.evaluate_every": 0,
            "execution.snapshot_steps": 0,
            "execution.snapshot_seconds": 0,
        },
    )

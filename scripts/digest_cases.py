"""The cases of digests.py: recipes cut short, and variants of `digits` and `mnist` that reach the other rules.

A case is a function that makes its config, since making all of them takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffpipe import Config, override, recipe

Fields = dict[str, Any]
Cases = dict[str, Callable[[], Config]]

RECIPES = (
    "augmented",
    "digits",
    "digits-cnn",
    "ff-py",
    "five-digits-supervised",
    "five-digits-unsupervised",
    "hinton",
    "hinton-exact",
    "keras",
    "keras-exact",
    "mnist",
    "mnist-cnn",
    "paper-supervised",
    "paper-unsupervised",
    "pff",
    "symba",
    "tf-five-digits",
    "tf-five-digits-supervised",
    "tf-layer-by-layer",
)

# Networks of local losses, each a few steps on random data of the shape that it is for.
LOCAL = {
    "mono-forward": (32, 32, 3),
    "hinton-lrf": (28, 28),
    "nokland-mlp": (28, 28),
    "nokland-mlp-pred": (28, 28),
    "cwcomp": (28, 28),
    "cwcomp-fashion": (28, 28),
    "cwcomp-cifar10": (32, 32, 3),
    "dgl": (32, 32, 3),
    "fashion-cnn": (28, 28),
    "cifar10-local": (32, 32, 3),
    "char-lm": (),
}
LOCAL_BATCH, LOCAL_STEPS = 8, 5

# One process, one stage, and nothing beside the training and the test after it.
PLAIN: Fields = {
    "execution.engine": "local",
    "execution.stages": 1,
    "execution.evaluate_every": 0,
    "execution.snapshot_steps": 0,
}

# Steps for a prediction to come back as negatives at the default lag of 48: 60 of digits, 54 of MNIST.
DIGITS: Fields = {
    "training.data.source": "digits",
    "training.data.split_seed": 0,
    "training.data.train_limit": 1000,
    "training.data.validation": 97,
    "training.data.test_count": 300,
    "training.batch_size": 50,
    "training.epochs": 3,
}
# The test of all 10,000 would take longer than the training.
MNIST: Fields = {
    "training.data.source": "idx",
    "training.data.train_limit": 1800,
    "training.data.validation": 20,
    "training.data.test_count": 40,
    "training.epochs": 3,
}
MNIST_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")

# A minibatch is the whole training set, with 50 updates of a layer on it.
FULL_BATCH: Fields = {
    "training.data.train_limit": 500,
    "training.batch_size": 500,
    "training.epochs": 2,
    "training.dims": [784, 200, 200],
}

# The epsilon that the recipe had when its digests were first recorded.
KERAS: Fields = {**FULL_BATCH, "training.normalization_epsilon": 1e-20}

# On top of these for the digits.
DIGITS_STEPS: dict[str, Fields] = {
    "keras-exact": KERAS,
    "ff-py": {"training.data.split_seed": -1},
    "tf-five-digits": {"training.data.split_seed": -1},
    "tf-five-digits-supervised": {"training.data.split_seed": -1},
    "tf-layer-by-layer": {"training.epochs": 4},
}

# On top of these for MNIST, where a recipe has minibatches of its own.
MNIST_STEPS: dict[str, Fields] = {
    "five-digits-supervised": {"training.data.train_limit": 2500, "training.epochs": 8},
    "five-digits-unsupervised": {"training.data.train_limit": 2500, "training.epochs": 8},
    "keras-exact": KERAS,
    "pff": {"training.epochs": 2},
    "tf-five-digits": {"training.data.train_limit": 2500},
    "tf-five-digits-supervised": {"training.data.train_limit": 2500},
    "tf-layer-by-layer": {"training.data.train_limit": 2500, "training.epochs": 4},
}

# Widest layer, by what a processor without products in bfloat16 can do in a few seconds.
WIDEST_OF_DIGITS = {"bfloat16": 80, "float32": 200, "float64": 200}
WIDEST_OF_MNIST = {"bfloat16": 80, "float32": 1000}
WIDEST_OF_VARIANTS = {"bfloat16": 80, "float32": 150, "float64": 150}  # of MNIST

# The widest recipe as it is, but in float32.
WIDE: Fields = {"training.precision": "float32", "training.data.train_limit": 1000, "training.epochs": 1}

HARD: Fields = {"training.negatives": "hard"}
VARIANTS: dict[str, Fields] = {
    "float32": {"training.precision": "float32"},
    "float64": {"training.precision": "float64"},
    "bfloat16": {"training.precision": "bfloat16"},
    "lag-0": {**HARD, "training.negative_lag": 0},
    "lag-3": {**HARD, "training.negative_lag": 3},
    "lag-24": {**HARD, "training.negative_lag": 24},
    "lag-0-bfloat16": {**HARD, "training.negative_lag": 0, "training.precision": "bfloat16"},
    "random": {"training.negatives": "random"},
    "fixed": {"training.negatives": "fixed"},
    "shuffled": {"training.negatives": "shuffled"},
    "adaptive": {"training.negatives": "adaptive", "training.negative_lag": 8},
    "hybrid": {"training.negatives": "hybrid", "training.labels": "none"},
    "others": {"training.negatives": "others", "training.data.positive_classes": 5},
    "others-unlabelled": {
        "training.negatives": "others",
        "training.labels": "none",
        "training.data.positive_classes": 5,
    },
    "overlay": {"training.labels": "overlay", "training.label_strength": 2.0},
    "append": {"training.labels": "append"},
    "dropout": {"training.dropout": 0.1},
    "jitter": {"training.jitter": 1},
    "dropout-and-jitter-lag-0": {"training.dropout": 0.2, "training.jitter": 2, "training.negative_lag": 0},
    "softplus": {"training.objective": "softplus", "training.temperature": 2.0},
    "symba": {"training.objective": "symba"},
    "mean-goodness": {"training.goodness": "mean", "training.threshold": 1.5},
    "l2": {"training.normalization": "l2"},
    "glorot": {"training.initialization": "glorot"},
    "no-peer": {"training.peer": 0.0},
    "constant-rate": {"training.schedule": "constant"},
    "phases-apart": {"training.phases": "apart"},
    "phases-apart-softplus": {"training.phases": "apart", "training.objective": "softplus"},
    "local-steps": {"training.local_steps": 3, "training.negatives": "random"},
    "hand-on-after": {"training.hand_on": "after"},
    "local-steps-after": {"training.local_steps": 3, "training.hand_on": "after", "training.phases": "apart"},
    "no-head": {"training.head": False, "training.negatives": "random"},
    "readouts-from-0": {"training.head_from": 0, "training.goodness_from": 0},
    "averaging": {"training.optimizer.kind": "averaging", "training.optimizer.averaging": 0.8},
    "sgd-momentum": {"training.optimizer.kind": "SGD", "training.optimizer.options": {"momentum": 0.9}},
    "adam": {"training.optimizer.kind": "Adam", "training.optimizer.learning_rate": 0.001},
    "adam-bfloat16": {
        "training.optimizer.kind": "Adam",
        "training.optimizer.learning_rate": 0.001,
        "training.precision": "bfloat16",
    },
    "adamw": {"training.optimizer.kind": "AdamW", "training.optimizer.learning_rate": 0.001},
    "nadam": {"training.optimizer.kind": "NAdam", "training.optimizer.learning_rate": 0.001},
    "rmsprop": {"training.optimizer.kind": "RMSprop", "training.optimizer.learning_rate": 0.001},
    "head-adam": {"training.head_optimizer.kind": "Adam", "training.head_optimizer.learning_rate": 0.001},
    "backprop": {"training.method": "backprop"},
}


def digits_cases() -> Cases:
    """Return the cases on the packaged digits by name: every recipe, and the variants of `digits`."""

    def short(name: str, fields: Fields) -> Config:
        return _narrowed(_shortened(name, {**PLAIN, **DIGITS, **fields}), 64, WIDEST_OF_DIGITS)

    recipes: Cases = {
        f"recipe-{name}": partial(short, name, DIGITS_STEPS.get(name, {}))
        for name in RECIPES
        if name != "mnist-cnn"  # whose heads are for larger images
    }
    variants: Cases = {name: partial(short, "digits", fields) for name, fields in VARIANTS.items()}
    return _named("digits", {**recipes, **variants, "wide-digits": partial(_plain, "digits", DIGITS)})


def mnist_cases(folder: str) -> Cases:
    """Return the cases on a slice of MNIST by name: every recipe but `digits`, and variants of `mnist`.

    folder: holds mnist/. The names do not depend on it.
    """
    files = {"training.data.train": [str(Path(folder) / "mnist" / name) for name in MNIST_FILES]}

    def short(name: str, fields: Fields, widest: dict[str, int]) -> Config:
        return _narrowed(_shortened(name, {**PLAIN, **MNIST, **files, **fields}), 784, widest)

    recipes: Cases = {
        f"recipe-{name}": partial(short, name, MNIST_STEPS.get(name, {}), WIDEST_OF_MNIST)
        for name in RECIPES
        if name != "digits"
    }
    lag = {"training.negative_lag": 24}
    variants: Cases = {
        name: partial(short, "mnist", {**lag, **fields}, WIDEST_OF_VARIANTS) for name, fields in VARIANTS.items()
    }
    wide: Cases = {"wide-paper-supervised": partial(_plain, "paper-supervised", {**MNIST, **files, **WIDE})}
    return _named("mnist", {**recipes, **variants, **wide})


def local_cases(folder: Path) -> Cases:
    """Return the cases of LOCAL by name, each of which writes what it trains on into a folder.

    Epochs have one step, so that milestones and windows of epochs come to pass.
    """
    return _named("local", {f"recipe-{name}": partial(_local_case, name, folder) for name in LOCAL})


def _local_case(name: str, folder: Path) -> Config:
    fields: Fields = {
        **PLAIN,
        "training.epochs": LOCAL_STEPS,
        "training.batch_size": LOCAL_BATCH,
        "training.data.train_limit": LOCAL_BATCH,
        "training.data.validation": 4,
        "training.data.test_count": 4,
    }
    shape = LOCAL[name]
    if shape:
        path = folder / f"{'x'.join(map(str, shape))}.npz"
        images = np.random.default_rng(1).integers(0, 256, (LOCAL_BATCH + 8, *shape), dtype=np.uint8)
        np.savez(path, images=images, labels=np.arange(len(images)) % 10)
        data: Fields = {"training.data.source": "npz", "training.data.train": [str(path)]}
    else:
        path = folder / "text.txt"
        path.write_text("the quick brown fox jumps over the lazy dog\n" * 60)
        data = {"training.data.train": [str(path)]}
    return override(_with_short_windows(recipe(name)), {**fields, **data})


def _plain(name: str, fields: Fields) -> Config:
    return override(recipe(name), {**PLAIN, **fields})


def _shortened(name: str, fields: Fields) -> Config:
    """Return a recipe with fewer epochs, and as much fewer those of its blocks."""
    whole = recipe(name)
    made = override(whole, fields)
    epochs, of = made.training.epochs, whole.training.epochs
    blocks = tuple(
        replace(each, first_epoch=each.first_epoch * epochs // of, last_epoch=each.last_epoch * epochs // of)
        for each in made.training.blocks
    )
    return replace(made, training=replace(made.training, blocks=blocks))


def _with_short_windows(config: Config) -> Config:
    """Have the blocks of a recipe learn until the last of the few epochs, where they would learn for longer."""
    blocks = tuple(replace(each, last_epoch=min(each.last_epoch, LOCAL_STEPS)) for each in config.training.blocks)
    return replace(config, training=replace(config.training, blocks=blocks))


def _narrowed(config: Config, features: int, widest: dict[str, int]) -> Config:
    widths = (min(width, widest[config.training.precision]) for width in config.training.dims[1:])
    # Also of a recipe of blocks, which makes nothing of them.
    return replace(config, training=replace(config.training, dims=(features, *widths)))


def _named(data: str, cases: Cases) -> Cases:
    return {f"{data}/{name}": each for name, each in cases.items()}

"""Each recipe has the constants of the program or paper that it is named after, or those that its docstring says."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from typing import Any

import digest_cases
import pytest
from known_results import ROWS

from ffpipe.config.fields import override
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.config.schema import Training

# Hinton's programs and section 3.3 of his paper, where a recipe does not say otherwise.
OF_HINTON = {
    "labels": "overlay",
    "label_strength": 1.0,
    "normalization": "rms",
    "goodness": "sum",
    "threshold": None,  # the layer's width
    "objective": "hinton",
    "temperature": 1.0,
    "initialization": "normal",
    "dropout": 0.0,
    "jitter": 0,
    "local_steps": 1,
    "phases": "together",
    "hand_on": "before",
    "peer": 0.03,
    "peer_averaging": 0.9,
    "batch_size": 100,
    "schedule": "hinton",
    "negatives": "hard",
    "optimizer.kind": "averaging",
    "optimizer.learning_rate": 0.01,
    "optimizer.averaging": 0.9,
    "head": True,
    "head_from": 1,
    "head_optimizer.kind": "averaging",
    "head_optimizer.learning_rate": 0.1,
    "head_optimizer.averaging": 0.9,
    "head_optimizer.weight_decay": 0.003,
    "goodness_from": 1,
    "data.source": "mnist",
    "data.split_seed": -1,
    "data.validation": 0,
}
HINTON = {**OF_HINTON, "dims": (784, 1000, 1000, 1000), "epochs": 125, "data.validation": 10_000}
FIVE_DIGITS = {
    "dims": (784, 500, 500, 500, 500),
    "epochs": 200,
    "batch_size": 512,
    "data.source": "mnist",
    "data.positive_classes": 5,
    "negatives": "others",
    "objective": "softplus",  # binary cross-entropy
    "goodness": "sum",
    "phases": "apart",
    "optimizer.kind": "Adam",
    "head": True,
}
TF_FIVE_DIGITS = {
    "dims": (784, 100, 100, 100, 100),
    "epochs": 200,
    "batch_size": 128,
    "data.source": "mnist",
    "data.positive_classes": 5,
    "data.validation": 0,
    "data.order": "file",
    "negatives": "others-fixed",
    "phases": "by-epoch",
    "objective": "softplus",
    "goodness": "sum",
    "threshold": 0.1,
    "temperature": 1.0,
    "normalization": "l2",
    "normalization_epsilon": 1e-7,
    "normalize_inputs": False,
    "initialization": "glorot",
    "peer": 0.0,
    "dropout": 0.0,
    "label_strength": 1.0,
    "local_steps": 1,
    "hand_on": "before",
    "optimizer.kind": "KerasAdam",
    "optimizer.learning_rate": 0.0001,
    "optimizer.weight_decay": 0.0,
    "optimizer.options": {"eps": 1e-7},
    "schedule": "constant",
    "head_from": 1,
    "head_bias": True,
    "head_initialization": "glorot",
    "head_optimizer.kind": "KerasAdam",
    "head_optimizer.learning_rate": 0.0001,
    "head_optimizer.weight_decay": 0.0,
    "head_optimizer.options": {"eps": 1e-7},
    "goodness_from": 1,
    "precision": "float32",
}

TABLE: dict[str, dict[str, Any]] = {
    "hinton": HINTON | {"negative_lag": 16},
    "hinton-exact": HINTON | {"negative_lag": 0, "optimizer.learning_rate": 0.015},
    "ff-py": HINTON
    | {
        "negative_lag": 0,
        "peer": 0.0,
        "schedule": "ff-py",
        "optimizer.weight_decay": 0.002,
        "pair_errors": "logistic",
        "precision": "float32",
        "data.order": "file",
    },
    "paper-supervised": OF_HINTON | {"dims": (784, 2000, 2000, 2000, 2000), "epochs": 60},
    "paper-unsupervised": OF_HINTON
    | {
        "dims": (784, 2000, 2000, 2000, 2000),
        "epochs": 100,
        "labels": "none",
        "negatives": "hybrid",
        "head_from": 1,  # the last three of these four
    },
    "augmented": {"dims": (784, 1000, 1000, 1000), "epochs": 200, "jitter": 2, "data.source": "mnist"},
    "keras": {
        "dims": (784, 500, 500),
        "labels": "overlay",
        "label_strength": 1.0,
        "goodness_from": 0,
        "data.source": "mnist",
        "data.validation": 0,
    },
    "keras-exact": {
        "dims": (784, 500, 500),
        "epochs": 250,
        "batch_size": 60_000,
        "labels": "overlay",
        "label_strength": 1.0,
        "normalization": "l2",
        "normalization_epsilon": 1e-4,
        "initialization": "glorot",
        "goodness": "mean",
        "threshold": 1.5,
        "objective": "hinton",  # the mean of softplus over positive and negative rows: half of their sum
        "temperature": 1.0,
        "peer": 0.0,
        "dropout": 0.0,
        "optimizer.kind": "KerasAdam",
        "optimizer.learning_rate": 0.03,
        "optimizer.weight_decay": 0.0,
        "optimizer.options": {"eps": 1e-7},
        "schedule": "constant",
        "local_steps": 50,
        "phases": "together",
        "hand_on": "after",
        "negatives": "shuffled",
        "head": False,
        "goodness_from": 0,
        "precision": "float32",
        "data.source": "mnist",
        "data.validation": 0,
    },
    "five-digits-unsupervised": FIVE_DIGITS | {"labels": "none"},
    "five-digits-supervised": FIVE_DIGITS | {"labels": "overlay"},
    "tf-five-digits": TF_FIVE_DIGITS | {"labels": "none", "test_labels": "overlay"},
    "tf-five-digits-supervised": TF_FIVE_DIGITS | {"labels": "overlay", "test_labels": "none"},
    "tf-layer-by-layer": TF_FIVE_DIGITS
    | {"labels": "none", "epochs": 800, "data.order": "shuffled", "head_optimizer.learning_rate": 0.001},
    "pff": {
        "dims": (784, 2000, 2000, 2000, 2000),
        "epochs": 100,
        "batch_size": 64,
        "optimizer.kind": "AdamW",
        "optimizer.learning_rate": 0.01,
        "optimizer.weight_decay": 0.0015,  # times the rate, as Hinton's program has it
        "optimizer.options": {"fused": True, "eps": 1.0},
        "head_optimizer.kind": "Adam",
        "head_optimizer.learning_rate": 0.0001,
        "schedule": "hinton",  # cooled down from half of the epochs on
        "negatives": "adaptive",
        "data.source": "mnist",
    },
    "symba": {"objective": "symba", "data.source": "mnist"},
}


def value(training: Training, name: str) -> Any:
    return reduce(getattr, name.split("."), training)


@pytest.mark.parametrize("name", TABLE)
def test_constants(name: str) -> None:
    config = get_recipe(name)
    assert config.recipe == name
    assert {field: value(config.training, field) for field in TABLE[name]} == TABLE[name]


@pytest.mark.parametrize("name", ["hinton", "hinton-exact", "paper-supervised", "paper-unsupervised"])
def test_weight_decay_is_within_what_hintons_programs_have(name: str) -> None:
    assert 0.001 <= get_recipe(name).training.optimizer.weight_decay <= 0.002


def test_hinton_exact_differs_in_lag_and_rate_alone() -> None:
    free, exact = get_recipe("hinton").training, get_recipe("hinton-exact").training
    optimizer = replace(exact.optimizer, learning_rate=free.optimizer.learning_rate)
    assert replace(exact, negative_lag=free.negative_lag, optimizer=optimizer) == free


def test_layers_learn_for_200_epochs_each() -> None:
    blocks = get_recipe("tf-layer-by-layer").training.blocks
    assert [(each.first_epoch, each.last_epoch) for each in blocks] == [(0, 200), (200, 400), (400, 600), (600, 800)]
    assert all(each.options == {"width": 100} for each in blocks)


@pytest.mark.parametrize("negatives", ["adaptive", "random", "fixed"])
def test_the_negatives_of_pff_are_an_option(negatives: str) -> None:
    assert override(get_recipe("pff"), {"training.negatives": negatives}).training.negatives == negatives


def test_every_row_of_the_sweep_is_pinned() -> None:
    """Here, or as networks of local losses in learn/test_local_recipes.py and by their digests."""
    assert {row.recipe for row in ROWS.values()} == {*TABLE, *digest_cases.LOCAL, "mnist-cnn"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_speaks_of_a_read_out_has_one(name: str) -> None:
    training = get_recipe(name).training
    has_one = training.head or any(block.kind == "readout" for block in training.blocks)
    assert has_one or "read-out" not in (RECIPES[name].__doc__ or "")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_whether_its_products_are_in_bfloat16(name: str) -> None:
    said = re.search("products in bfloat16", RECIPES[name].__doc__ or "", re.IGNORECASE)
    assert bool(said) == (get_recipe(name).training.precision == "bfloat16")

"""Named runs. Each is a function that returns a config; its docstring says where it comes from and what to expect."""

from __future__ import annotations

from collections.abc import Callable

from ffpipe.config import Config, Data, Execution, Optimizer, Training
from ffpipe.errors import UserError, nearest


def digits() -> Config:
    """UCI handwritten digits, shipped with the package: 64-500-500-500, two stages, hard negatives.

    1,400 training, 97 validation and 300 test images of 8 x 8. Expected: at least 97 % right by goodness
    and by softmax (three nearest neighbours give 98.9 %), in well under a minute on two cores.
    """
    return Config(
        recipe="digits",
        training=Training(
            dims=(64, 500, 500, 500),
            epochs=60,
            batch_size=50,
            labels="append",
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.001),
            negative_lag=24,
            data=Data(source="digits", validation=97, test_count=300),
        ),
        execution=Execution(stages=2, evaluate_every=5),
    )


def mnist() -> Config:
    """MNIST with hard negatives: 784-1000-1000-1000, batch 100, the constants of Hinton's program (ffnew.m).

    Expected: at most 2.2 % test error by goodness after 10 epochs.
    """
    return Config(
        recipe="mnist",
        training=Training(
            dims=(784, 1000, 1000, 1000),
            epochs=10,
            batch_size=100,
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.001),
            data=Data(source="mnist", split_seed=-1),
        ),
        execution=Execution(),
    )


RECIPES: dict[str, Callable[[], Config]] = {recipe.__name__: recipe for recipe in (digits, mnist)}


def get_recipe(name: str) -> Config:
    """The config of a recipe. Raises UserError with the nearest right name."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]()

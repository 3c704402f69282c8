"""The list that a user's function returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from user_code import refused

from ffpipe.learn.items import call
from ffpipe.learn.local_item import Local


class Residual(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return x


RESULTS: list[tuple[Callable[[], object], str]] = [
    (lambda: None, "my returned a value of type NoneType: return a list of blocks, torch modules or callables"),
    (list, "my returned an empty list: return a list"),
    (nn.Sequential, "my returned an empty list: return a list"),
    (lambda: nn.Linear(1, 1), "my returned a value of type Linear: return a list"),
    (lambda: (nn.ReLU() for _ in range(2)), "my returned a value of type generator: return a list"),
    (lambda: [nn.ReLU(), "relu"], "item 1 of my is str: give a torch module, an ffpipe.Local, or a function"),
    (lambda: (None,), "item 0 of my is NoneType: give a torch module"),
    (lambda: Residual(nn.ReLU()), "my returned a value of type Residual: return a list"),
]


@pytest.mark.parametrize(("function", "says"), RESULTS)
def test_results_that_are_not_a_model(function: Callable[[], list[Any]], says: str) -> None:
    assert refused(lambda: call(function, {}, "my")).startswith(says)


def test_results() -> None:
    first, second = nn.Linear(1, 2), nn.Sequential(nn.ReLU())
    for made in ([first, second], (first, second), nn.Sequential(first, second)):
        assert call(lambda made=made: made, {}, "my") == [Local(first), Local(second)]
    assert call(lambda: [nn.ReLU, lambda: first], {}, "my")[0] is nn.ReLU

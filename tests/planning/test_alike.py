"""Blocks are alike where a step of one is a step of the other, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from blueprints import blueprint_of
from torch import Tensor, nn
from wrong_items import Mine

from ffpipe import BlockConfig, Local, override, recipe
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.items import META
from ffpipe.planning.alike import of_each_block
from ffpipe.planning.cost import costs_of


class Again(nn.Module):
    """A layer that passes rows so many times, with a function and an object beside its weights."""

    def __init__(self, times: int = 1, then: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.linear, self.then, self.times = nn.Linear(64, 64), then, Times(times)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times.count):
            x = self.then(self.linear(x))
        return x


class Times:
    def __init__(self, count: int) -> None:
        self.count = count


class Held:
    """An object that its text does not show whole."""

    def __init__(self) -> None:
        self.times = Times(1)


class Holding(Again):
    def __init__(self) -> None:
        super().__init__()
        self.held = Held()


class Added(Again):
    def forward(self, x: Tensor, *kept: Tensor) -> Tensor:
        return super().forward(x + kept[0].mean(1, keepdim=True))


def network(*blocks: Any) -> Blueprint:
    fields = {"training.negatives": "none", "training.labels": "none", "training.head": False, "training.model": "own"}
    return blueprint_of(override(recipe("digits"), fields).training, (64,), function=lambda: list(blocks))


def looked_at(of: Blueprint) -> list[int]:
    """Return the first block that each block is like."""
    return list(of_each_block(of, META, lambda block: block.index))


def test_what_repeats_its_layer_costs_as_often() -> None:
    one, twelve = costs_of(network(Again(1), Again(12)))
    assert twelve.flops > 8 * one.flops
    assert twelve.step > 3 * one.step


def test_heads_of_attention_cost() -> None:
    options = [{"symbols": 17, "heads": 8}, *({"heads": heads} for heads in (1, 8, 8))]
    blocks = tuple(BlockConfig(kind="transformer", options={"width": 32, **each}) for each in options)
    training = replace(recipe("char-lm").training, blocks=blocks)
    assert looked_at(blueprint_of(training, (32,), classes=17)) == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("blocks", "like"),
    [
        ([Again(3), Again(3), Again(2)], [0, 0, 2]),
        ([Again(1), Again(1, torch.relu), Again(1, nn.functional.gelu), Again(1, torch.relu)], [0, 1, 2, 1]),
        ([nn.Linear(64, 64), nn.Linear(64, 64).requires_grad_(False), nn.Linear(64, 64)], [0, 1, 0]),
        ([Holding(), Holding()], [0, 1]),
        ([Mine(0), Mine(1)], [0, 1]),
    ],
    ids=["attributes", "functions", "frozen weights", "objects in objects", "own blocks"],
)
def test_blocks_that_are_alike(blocks: list[Any], like: list[int]) -> None:
    assert looked_at(network(*blocks)) == like


def test_what_a_block_uses_of_others_counts() -> None:
    kept = [Local(nn.Linear(64, 64), keep="a"), Local(nn.Linear(64, 32), keep="b"), nn.Linear(32, 64)]
    blocks = [Local(Added(), use=(name,)) for name in ("a", "b", "a")]
    assert looked_at(network(*kept, *blocks)) == [0, 1, 2, 3, 4, 3]

"""Cuts against brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.pipeline.partition import layer_costs, partition


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.data())
def test_no_contiguous_cut_has_a_cheaper_slowest_stage(costs: list[int], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    cut = partition(costs, stages)
    assert [layer for group in cut for layer in group] == list(range(len(costs)))
    assert all(len(group) for group in cut)
    best = min(
        max(sum(costs[a:b]) for a, b in zip((0, *inner), (*inner, len(costs)), strict=True))
        for inner in combinations(range(1, len(costs)), stages - 1)
    )
    assert max(sum(costs[i] for i in group) for group in cut) == best


@pytest.mark.parametrize("stages", [0, 4])
def test_impossible_numbers_of_stages(stages: int) -> None:
    with pytest.raises(ValueError, match="cannot cut 3 layers"):
        partition([1, 1, 1], stages)


def test_costs_are_the_sizes_of_the_products() -> None:
    assert layer_costs([784, 1000, 10]) == [784_000, 10_000]

"""Cuts against brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.pipeline.partition import partition


@given(st.data())
def test_no_contiguous_cut_has_a_faster_slowest_stage(data: st.DataObject) -> None:
    """Stages on devices of different speed, with work of their own beside the layers."""
    layers = data.draw(st.integers(1, 8))
    stages = data.draw(st.integers(1, layers))
    costs = st.lists(st.integers(1, 50), min_size=layers, max_size=layers)
    seconds = data.draw(st.lists(costs, min_size=stages, max_size=stages))
    extra = data.draw(st.lists(st.integers(0, 60), min_size=stages, max_size=stages))
    cut = partition(seconds, extra)
    assert [layer for group in cut for layer in group] == list(range(layers))
    assert all(len(group) for group in cut)

    def slowest(groups: list[range]) -> int:
        return max(sum(seconds[s][i] for i in group) + extra[s] for s, group in enumerate(groups))

    every = (
        [range(a, b) for a, b in zip((0, *inner), (*inner, layers), strict=True)]
        for inner in combinations(range(1, layers), stages - 1)
    )
    assert slowest(cut) == min(map(slowest, every))


def test_a_device_twice_as_fast_gets_twice_the_layers() -> None:
    assert partition([[1.0] * 6, [2.0] * 6]) == [range(4), range(4, 6)]


@pytest.mark.parametrize("stages", [0, 4])
def test_impossible_numbers_of_stages(stages: int) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        partition([[1, 1, 1]] * stages)

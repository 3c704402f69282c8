"""Passes that meet draw what they would draw alone, and do not part."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch

from ffpipe.learn.local import seeded
from ffpipe.learn.meeting import Meeting
from ffpipe.system.errors import UserError

CPU = torch.device("cpu")
Drawn = list[tuple[float, float, float]]


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), np.random.rand(), random.random()  # noqa: NPY002


def test_each_pass_has_its_own_numbers_before_and_after_they_meet() -> None:
    expected: list[Drawn] = []
    for place in range(3):
        with seeded(CPU, 1, "shard", place):
            expected.append([draw(), draw(), draw()])
    meeting = Meeting(CPU)

    def passed(place: int) -> Drawn:
        with seeded(CPU, 1, "shard", place):
            found = [draw()]
            for number in range(2):
                assert meeting.meet(f"place {number}", place, lambda places: places) == place
                found.append(draw())
            return found

    assert meeting.run([partial(passed, place) for place in range(3)]) == expected


@pytest.mark.parametrize(
    ("ways", "says"),
    [
        (("a b", "a"), "one is at b, another at its end"),
        (("a", "a b"), "one is at its end, another at b"),
        (("a b", "b a"), "one is at a, another at b"),
        (("a b", "a b", "a", "a b"), "one is at b, another at its end"),
        (("a", "", "a", "a"), "one is at a, another at its end"),
    ],
)
def test_passes_that_part_end_with_an_error(ways: tuple[str, ...], says: str) -> None:
    meeting = Meeting(CPU)

    def passed(way: str) -> list[int]:
        return [meeting.meet(where, 1, lambda values: values) for where in way.split()]

    with pytest.raises(UserError, match=says):
        meeting.run([partial(passed, way) for way in ways])

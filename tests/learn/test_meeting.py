"""Passes that meet draw what they would draw alone."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch

from ffpipe.learn.local import seeded
from ffpipe.learn.meeting import Meeting

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
            for _ in range(2):
                assert meeting.meet(place, lambda places: places) == place
                found.append(draw())
            return found

    assert meeting.run([partial(passed, place) for place in range(3)]) == expected

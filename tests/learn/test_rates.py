"""Schedules of learning rates: Hinton's epoch by epoch, others step by step, and blocks that learn for a while only."""

from __future__ import annotations

import math

import pytest

from ffpipe.learn.rates import Rates, rate_factor

SCHEDULES = ("constant", "hinton", "ff-py", "cosine", "onecycle")


def test_hinton_is_flat_for_half_the_epochs_then_falls_in_a_line() -> None:
    factors = [rate_factor("hinton", epoch, 10) for epoch in range(10)]
    assert factors == [1, 1, 1, 1, 1, 0.9, 0.7, 0.5, 0.3, 0.1]


def test_the_numpy_port_counts_epochs_from_0() -> None:
    factors = [rate_factor("ff-py", epoch, 125) for epoch in range(125)]
    assert factors[:64] == [1.0] * 64
    assert factors[64] == 123 / 125
    assert factors[-1] == 3 / 125
    assert [rate_factor("hinton", epoch, 125) for epoch in (64, 124)] == [121 / 125, 1 / 125]


def test_constant_is_one() -> None:
    assert {rate_factor("constant", epoch, 7) for epoch in range(7)} == {1.0}


def test_a_cosine_falls_from_one_to_zero_over_all_steps() -> None:
    factors = [Rates("cosine", 5, 2).factor(step) for step in range(10)]
    expected = [(1 + math.cos(math.pi * (step + 0.5) / 10)) / 2 for step in range(10)]
    assert factors == pytest.approx(expected, rel=1e-12)
    assert expected == sorted(expected, reverse=True)


def test_one_cycle_rises_for_a_quarter_of_the_steps() -> None:
    factors = [Rates("onecycle", 4, 2).factor(step) for step in range(8)]
    # Steps 0 and 1 rise to the peak behind them; six fall from there.
    assert factors == pytest.approx([1 / 4, 3 / 4, 11 / 12, 9 / 12, 7 / 12, 5 / 12, 3 / 12, 1 / 12], rel=1e-12)


def test_steps_fall_at_milestones_counted_from_the_first_epoch_of_a_block() -> None:
    rates = Rates("steps", 2, 6, 1, 5, milestones=(1, 3), decay=0.5)
    assert [rates.factor(step) for step in range(12)] == [None, None, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, None, None]


def test_the_steps_of_an_epoch_have_the_rate_of_their_epoch() -> None:
    rates = Rates("hinton", 3, 10)
    assert [rates.factor(step) for step in range(30)] == [rate_factor("hinton", step // 3, 10) for step in range(30)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 0), (0, 3), (1, 4)])
def test_a_block_learns_from_its_first_epoch_to_its_last_by_the_whole_of_its_schedule(
    schedule: str, first: int, last: int
) -> None:
    rates = Rates(schedule, 3, 6, first, last)
    learns = range(3 * first, 3 * (last or 6))
    factors = {step: rates.factor(step) for step in range(18)}
    assert [step for step, factor in factors.items() if factor is not None] == list(learns)
    whole = Rates(schedule, 3, (last or 6) - first)
    assert [factors[step] for step in learns] == [whole.factor(step) for step in range(len(learns))]
    assert all(factor is None or 0 < factor <= 1 for factor in factors.values())

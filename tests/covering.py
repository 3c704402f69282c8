"""Some combinations of values for `make test`, and the others for `make test-long`.

    @pytest.mark.parametrize(("kind", "precision"), in_turn(KINDS, PRECISIONS))

`in_turn` takes every value of every factor once at least, `in_pairs` every pair of values of two factors, `only` some
values of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest

Combination = tuple[int, ...]


def in_turn(*factors: Collection[Any], among: Collection[Any] | None = None) -> list[Any]:
    """Return all combinations as parameters, of which those are not long tests that have the first values of all
    factors, the second ones, and so on; a factor with fewer values begins again. among: values of the first factor
    without which a test is long; None: there are none."""
    values = [list(factor) for factor in factors]
    most = max(len(each) for each in values)
    turns = {tuple(turn % len(each) for each in values) for turn in range(most)}
    return _marked(values, {turn for turn in turns if among is None or values[0][turn[0]] in among})


def in_pairs(*factors: Collection[Any]) -> list[Any]:
    """Return all combinations as parameters, of which those are not long tests that have a pair of values of two
    factors which none before them has; the one with most new pairs comes next."""
    values = [list(factor) for factor in factors]
    everything = list(itertools.product(*(range(len(each)) for each in values)))
    missing = {pair for each in everything for pair in _pairs(each)}
    chosen: set[Combination] = set()
    while missing:
        best = max(everything, key=lambda each: len(missing & _pairs(each)))
        chosen.add(best)
        missing -= _pairs(best)
    return _marked(values, chosen)


def only(kept: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return all values as parameters, of which those not kept are long tests."""
    return [pytest.param(value, marks=() if value in kept else pytest.mark.long) for value in values]


def _pairs(combination: Combination) -> set[tuple[tuple[int, int], ...]]:
    """Return the pairs of values of two factors in a combination, each value by its factor and its place there."""
    return set(itertools.combinations(enumerate(combination), 2))


def _marked(values: list[list[Any]], chosen: Iterable[Combination]) -> list[Any]:
    """Return all combinations, in order. Those that are not chosen are long."""
    kept = set(chosen)
    return [
        pytest.param(
            *(each[place] for each, place in zip(values, places, strict=True)),
            marks=() if places in kept else pytest.mark.long,
        )
        for places in itertools.product(*(range(len(each)) for each in values))
    ]

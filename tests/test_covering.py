"""Combinations that are not left to the long tests have every value, or every pair of values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from covering import in_pairs, in_turn

A, B, C = "abcde", [1, 2], ("", None)


def chosen(parameters: list[Any]) -> list[tuple[Any, ...]]:
    return [each.values for each in parameters if not each.marks]


def test_all_combinations_are_there() -> None:
    for parameters in (in_turn(A, B, C), in_pairs(A, B, C)):
        assert [each.values for each in parameters] == list(itertools.product(A, B, C))


def test_in_turn_has_every_value() -> None:
    assert chosen(in_turn(A, B)) == [("a", 1), ("b", 2), ("c", 1), ("d", 2), ("e", 1)]


@pytest.mark.parametrize("factors", [(A, B), (A, B, C), (A, B, C, "xyz")])
def test_in_pairs_has_every_pair(factors: tuple[Any, ...]) -> None:
    found = chosen(in_pairs(*factors))
    for one, other in itertools.combinations(range(len(factors)), 2):
        pairs = [(each[one], each[other]) for each in found]
        assert all(pair in pairs for pair in itertools.product(factors[one], factors[other]))
    assert len(found) <= len(factors[0]) * max(len(factor) for factor in factors[1:]) + 1

"""Random networks end with the same bits however they are trained; scripts/fuzz_bits.py tries as many as one likes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fuzz_bits import check

SEED = 0


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    was = torch.get_num_threads()
    yield
    torch.set_num_threads(was)


@pytest.mark.parametrize("numbers", [range(6), pytest.param(range(6, 120), marks=pytest.mark.long)], ids=str)
def test_random_networks_have_the_same_bits_in_every_way(numbers: range) -> None:
    found = [check(number, SEED, ray=False) for number in numbers]
    assert not [wrong for _, wrong in found if wrong]
    # Those that are refused or diverge say nothing.
    assert sum(end == "trained" for end, _ in found) > len(numbers) / 2

"""The mistakes of scripts/mutations.py can be planted, and each is found."""

from __future__ import annotations

from pathlib import Path

import mutations
import pytest
from mutation_list import MUTATIONS

SCRIPT = Path(mutations.__file__)


def test_every_line_that_is_changed_is_there() -> None:
    assert not mutations.misplaced(MUTATIONS)


def test_each_has_a_name_and_tests_of_its_own() -> None:
    names = [each.name for each in MUTATIONS]
    assert len(names) >= 30
    assert len(set(names)) == len(names)
    assert not [test for each in MUTATIONS for test in each.tests if not (SCRIPT.parents[1] / test).exists()]


@pytest.mark.long
def test_each_is_found() -> None:
    assert mutations.main([]) == 0

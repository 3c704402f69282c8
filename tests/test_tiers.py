"""Quick tests are quick: their files are there, and start no process."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiers import QUICK, SLOW


@pytest.mark.parametrize("path", sorted(QUICK - {Path(__file__).resolve()}), ids=lambda path: path.stem)
def test_a_quick_file_starts_no_process(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in SLOW if word in text]

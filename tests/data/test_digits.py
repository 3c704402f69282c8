from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from repository import SCRIPTS

from ffpipe.data import cache, digits

SCRIPT = SCRIPTS / "make_digits.py"


def test_the_set() -> None:
    stored = cache.stored(digits.part(), digits.CLASSES)
    rows = np.arange(len(stored))
    images = stored.images(rows)
    assert len(stored) == 1797
    assert stored.shape == (8, 8)
    assert stored.divisor == 16
    assert images.dtype == np.uint8
    assert images.max() == 16
    assert sorted(set(stored.labels(rows))) == list(range(10))


def test_it_is_small_and_comes_with_its_licence() -> None:
    assert digits.FILE.stat().st_size < 64 << 10
    assert "CC BY 4.0" in digits.FILE.with_suffix(".LICENSE.md").read_text()


def test_the_script_writes_what_the_package_holds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scripts/make_digits.py needs scikit-learn")
    copy = tmp_path / "copy.parquet"
    subprocess.run([sys.executable, SCRIPT, copy], check=True, capture_output=True)
    assert pq.read_table(copy).equals(pq.read_table(digits.FILE))
    if pq.read_metadata(copy).created_by == pq.read_metadata(digits.FILE).created_by:
        assert copy.read_bytes() == digits.FILE.read_bytes()

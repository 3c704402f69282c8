from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ffpipe.data.gzipped import md5, opened
from ffpipe.system.errors import UserError

DATA = b"0123456789" * 50


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_raw_and_gzipped_by_content(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "any name"
    path.write_bytes(pack(DATA))
    with opened(path) as stream:
        assert stream.read() == DATA
    assert md5(path, len(DATA)) == hashlib.md5(DATA).hexdigest()


def test_md5_reads_one_byte_too_many_at_most(tmp_path: Path) -> None:
    """A bomb is not unpacked, and does not pass for the file that it starts like."""
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(DATA + bytes(50 << 20)))
    assert md5(path, len(DATA)) == hashlib.md5(DATA + b"\0").hexdigest()


@pytest.mark.parametrize("cut", [3, 10, 15, -4])
def test_damage_is_a_user_error_that_names_the_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(DATA)[:cut])
    with pytest.raises(UserError, match=r"cut\.gz: cannot be read"):
        md5(path, len(DATA))

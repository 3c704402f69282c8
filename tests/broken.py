"""Files of which a few bytes are others: they are read, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import strategies as st

from ffpipe.system.errors import UserError


def damaged(data: st.DataObject, whole: bytes, most: int = 3, end: int = 1 << 30) -> bytes:
    """Give one to `most` of the first `end` bytes other values."""
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, most))):
        changed[data.draw(st.integers(0, min(len(changed), end) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed)


@contextmanager
def read_or_refused(refusal: type[Exception] = UserError) -> Iterator[None]:
    """Let a block succeed, or raise this exception of one line."""
    try:
        yield
    except refusal as error:
        if "\n" in str(error):
            pytest.fail(f"more than one line: {error}")

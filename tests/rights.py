"""Modes of files and folders that hold for root as well, as whom tests may be run."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# From linux/capability.h: the version of the structures, and rights to read and to enter whatever the mode says.
VERSION = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2


@contextmanager
def modes_hold() -> Iterator[None]:
    """Do without the rights of root over modes within this block, in this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)  # 0: this thread
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then those of numbers from 32 on
    assert libc.capget(header, rights) == 0
    effective = rights[0]
    rights[0] = effective & ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    assert libc.capset(header, rights) == 0
    try:
        yield
    finally:
        rights[0] = effective
        assert libc.capset(header, rights) == 0

"""The digits that come with the package: 1,797 images of 8 x 8, enough for a first run without a network.

`scripts/make_digits.py` writes the file; digits.LICENSE.md says where they are from. There is no test part.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ffpipe.data import columns, tables
from ffpipe.data.source import Part

CLASSES = 10
SHAPE = (8, 8)
LARGEST = 16  # of a pixel
FILE = Path(__file__).with_name("digits.parquet")


def part() -> Part:
    """Return the one part, all digits in the order of the original."""
    return Part(
        "digits",
        # By content: installed anew, or elsewhere, it is the same file in the cache.
        ("digits", hashlib.sha256(FILE.read_bytes()).hexdigest()),
        lambda: replace(columns.contents(tables.parquet, [FILE]), where="digits", shape=SHAPE, divisor=LARGEST),
    )

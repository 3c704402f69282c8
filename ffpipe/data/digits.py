"""The digits that come with the package: 1,797 images of 8 x 8, enough for a first run without a network.

`scripts/make_digits.py` writes the file; digits.LICENSE.md says where they are from. There is no test part.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq

from ffpipe.data.source import Contents, Part

CLASSES = 10
SHAPE = (8, 8)
LARGEST = 16  # of a pixel
FILE = Path(__file__).with_name("digits.parquet")


def part() -> Part:
    """Return the one part, all digits in the order of the original."""
    return Part("digits", ("digits", hashlib.sha256(FILE.read_bytes()).hexdigest()), _contents)


def _contents() -> Contents:
    table = pq.read_table(FILE).combine_chunks()
    images = table.column("image").chunk(0).flatten().to_numpy().reshape(table.num_rows, -1)
    return Contents(
        where="digits",
        shape=SHAPE,
        dtype=images.dtype,
        divisor=LARGEST,
        labels=table.column("label").to_numpy(),
        blocks=lambda: iter([images]),
    )

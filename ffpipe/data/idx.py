"""The IDX format of MNIST: a big-endian header, then numbers; raw or gzipped, read in blocks.

It must not know which files are which set or where they are kept: it is given one file of images and one of labels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ffpipe.data import source
from ffpipe.data.gzipped import opened
from ffpipe.data.source import BLOCK_BYTES, OpenedPart, Part
from ffpipe.system.errors import UserError

_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_MOST_DIMENSIONS = 8


def part(images: Path, labels: Path, field: str) -> Part:
    """Return the part in one file of images and one of labels. field: names the setting in messages."""
    identity = (source.file_identity(images, field), source.file_identity(labels, field))
    return Part("idx", ("idx", identity), lambda: contents(images, labels))


def contents(images: Path, labels: Path, *, block_bytes: int = BLOCK_BYTES) -> OpenedPart:
    """Read both headers and the labels. Raises UserError: unreadable, damaged, or not images and their labels."""
    with _opened(images) as (_, kind, dims), _opened(labels) as (_, label_kind, label_dims):
        pass  # the headers alone
    if len(dims) < 2:
        raise UserError(f"{images}: expected images, 2 dimensions or more; it has {dims} (labels come second)")
    if len(label_dims) != 1:
        raise UserError(f"{labels}: expected labels, 1 dimension; it has {label_dims} (images come first)")
    if dims[0] != label_dims[0]:
        raise UserError(f"{images} has {dims[0]} images, but {labels} has {label_dims[0]} labels")
    shape = source.check_shape(dims[1:], str(images))
    # An empty one first: NumPy refuses to join none, where labels.py says that there are no examples.
    numbers = np.concatenate([np.empty(0, label_kind), *(block[:, 0] for block in _blocks(labels, block_bytes))])
    return OpenedPart(
        where=f"{images} and {labels}",
        shape=shape,
        dtype=kind,
        divisor=0,
        labels=numbers,
        blocks=lambda: _blocks(images, block_bytes),
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, np.dtype[Any], tuple[int, ...]]]:
    """Open the numbers in a file, their dtype (big endian) and the dimensions of the whole array, examples first."""
    with opened(path) as stream:
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= _MOST_DIMENSIONS:
            raise UserError(
                f"{path}: not an IDX file: it starts with {magic.hex(' ') or 'nothing'}, expected like 00 00 08 03"
            )
        dims = stream.read(4 * magic[3])
        if len(dims) < 4 * magic[3]:
            raise UserError(f"{path}: it ends within its header")
        yield stream, _DTYPES[magic[2]], struct.unpack(f">{magic[3]}I", dims)


def _blocks(path: Path, block_bytes: int) -> Iterator[NDArray[Any]]:
    """Yield arrays (n, numbers in a row) in the file's dtype, of about so many bytes."""
    with _opened(path) as (stream, dtype, dims):
        yield from source.of_stream(stream, dtype, dims[0], math.prod(dims[1:]), block_bytes)
        if stream.read(1):
            raise UserError(f"{path}: there are bytes after the last of {dims[0]} rows")

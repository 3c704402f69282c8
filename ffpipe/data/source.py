"""The common form of all sources: a `Part` that can be named without being read, and its `Contents` once opened.

The sources build these, the cache and the writer of the canonical file use them. This module knows no file
format and no split; the rules that hold for all sources (allowed shapes and dtypes, labels, limits) stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import expanded

# Images are read, checked and stored in blocks of about this size, so memory does not grow with the set.
BLOCK_BYTES = 64 << 20

# One image may have this many values (4096 x 4096): a larger number is a damaged header, and would be allocated.
MOST_FEATURES = 1 << 24
# The option that makes pictures of different sizes alike.
SIZE = "--training.data.size"


@dataclass(frozen=True)
class Contents:
    """An opened part: everything but the images is in memory, and they come in blocks.

    where: the file or files, for messages. shape: of one image. dtype: of the blocks, integers, bools or floats.
    divisor: what an image is divided by when it is read as float32, where the source knows; 0: its numbers tell.
    labels: one an example, in any form that labels.py reads. blocks: a fresh pass over the images in the order of
    `labels`, as arrays of shape (any n, features); raises UserError where the data turn out to be damaged.
    classes: how many there are where the source knows; 0: the labels tell. names: of the classes, where the source
    has them. found: what the source made of what it was given, for people.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    divisor: float
    labels: NDArray[Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    classes: int = 0
    names: tuple[str, ...] = ()
    found: str = ""

    @property
    def features(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Part:
    """The training or the test part of a source, not read yet.

    name: a short word for the cache file's name. identity: all that the contents depend on, as values that
    `repr` tells apart. open: reads headers and labels; raises UserError where they are wrong.
    """

    name: str
    identity: tuple[object, ...]
    open: Callable[[], Contents]


def file_identity(path: Path, field: str) -> tuple[str, int, int, int]:
    """Return a key to this state of a file: resolved path, bytes, mtime and ctime in ns (a copy may keep its
    mtime). UserError: no such file."""
    try:
        resolved = expanded(path).resolve(strict=True)
        stat = resolved.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{field}: there is no file {path} ({reason(error)})") from None
    if not resolved.is_file():
        raise UserError(f"{field}: {path} is not a file")
    return str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """Return the shape of one image. Raises UserError where no image can have it."""
    if not shape or min(shape) < 1 or math.prod(shape) > MOST_FEATURES:
        raise UserError(
            f"{where}: an image of shape {tuple(shape)} cannot be used; expected 1 to {MOST_FEATURES} values an image"
        )
    return tuple(int(size) for size in shape)

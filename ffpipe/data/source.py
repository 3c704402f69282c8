"""What every source is turned into: a `Part` that can be named without being read, and its `Contents` once opened.

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

# A label as large as this is an identifier or a damaged file; as a class number it would be allocated for.
MOST_DERIVED_CLASSES = 1 << 20


@dataclass(frozen=True)
class Contents:
    """An opened part: everything but the images is in memory, and they come in blocks.

    where: the file or files, for messages. shape: of one image. dtype: uint8 or float32, of the blocks.
    divisor: what an image is divided by when it is read as float32 (255, 16 or 1). labels: int64 (count,),
    not yet checked against the number of classes. blocks: a fresh pass over the images in the order of
    `labels`, as arrays of shape (any n, features); raises UserError where the data turn out to be damaged.
    classes: how many there are where the source knows; 0: the labels tell.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    divisor: int
    labels: NDArray[np.int64]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    classes: int = 0

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
    """A key to this state of a file: resolved path, bytes, mtime and ctime in ns (a copy may keep its
    mtime). UserError: no such file."""
    try:
        resolved = expanded(path).resolve(strict=True)
        stat = resolved.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{field}: cannot find the file {path}: {reason(error)}") from None
    if not resolved.is_file():
        raise UserError(f"{field}: {path} is not a file")
    return str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """The shape of one image, or a UserError where no image can have it."""
    if not shape or min(shape) < 1 or math.prod(shape) > MOST_FEATURES:
        raise UserError(
            f"{where}: an image of shape {tuple(shape)} cannot be used; expected 1 to {MOST_FEATURES} values an image"
        )
    return tuple(int(size) for size in shape)


def stored_as(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], int]:
    """The dtype in which numbers of `dtype` are stored, and their divisor: bytes stay bytes, the rest is float32."""
    if dtype == np.uint8:
        return np.dtype(np.uint8), 255
    return np.dtype(np.float32), 1


def cast(numbers: NDArray[Any]) -> NDArray[Any]:
    """Numbers in the dtype in which they are stored. What overflows becomes infinite, which the writer refuses."""
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(stored_as(numbers.dtype)[0], copy=False)


def integer_labels(labels: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Labels (n,) of any integer dtype as int64. Raises UserError for other dtypes and for what int64 cannot hold."""
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: labels are {labels.dtype}; expected integers")
    if labels.dtype == np.uint64 and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{where}: the label {labels.max()} is no class number")
    return labels.astype(np.int64)


def derived_classes(labels: NDArray[np.int64], where: str) -> int:
    """The largest training label + 1."""
    largest = int(labels.max(initial=0))
    if largest >= MOST_DERIVED_CLASSES:
        raise UserError(
            f"{where}: the label {largest} at row {int(labels.argmax())} is no likely class number; expected 0 to "
            "the number of classes - 1 (training.data.classes says how many there are)"
        )
    return largest + 1


def check_labels(labels: NDArray[np.int64], classes: int, where: str) -> None:
    """Raises UserError for the first label outside 0..classes-1, and where there is none at all."""
    if not len(labels):
        raise UserError(f"{where}: there are no examples")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{where}: the label {labels[wrong[0]]} at row {wrong[0]} is not in 0..{classes - 1}; there are {classes} "
            "classes (training.data.classes; 0 there: that of the known set, else the largest training label + 1)"
        )

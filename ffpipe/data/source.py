"""The common form of all sources: a `Part` that can be named without being read, and its `OpenedPart` once opened.

The sources build these, the cache and the writer of the canonical file use them, once for a set: the steps of a run
read examples.py. This module knows no file format and no split; the rules that hold for all sources (allowed shapes and
dtypes, labels, limits) stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.system.errors import UserError, reason

# Images are read, checked and stored in blocks of about this size, so memory does not grow with the set.
BLOCK_BYTES = 64 << 20

# One image may have this many values (4096 x 4096): a larger number is a damaged header, and would be allocated.
MOST_FEATURES = 1 << 24
# Numbers of channels that pictures have.
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class OpenedPart:
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
    open: Callable[[], OpenedPart]


def in_blocks(images: NDArray[Any], block_bytes: int = BLOCK_BYTES) -> Iterator[NDArray[Any]]:
    """Yield images (n, ...) as arrays (any number, features) of about so many bytes."""
    width = math.prod(images.shape[1:])
    rows = max(1, block_bytes // (width * images.itemsize))
    for first in range(0, len(images), rows):
        yield images[first : first + rows].reshape(-1, width)


def of_stream(
    stream: IO[bytes], dtype: np.dtype[Any], count: int, width: int, block_bytes: int
) -> Iterator[NDArray[Any]]:
    """Yield `count` rows of numbers as arrays (any number, width) of about so many bytes. Raises ValueError where there
    are fewer: nothing is allocated for rows that a header only promises."""
    row_bytes, done = width * dtype.itemsize, 0
    while done < count:
        rows = min(count - done, max(1, block_bytes // row_bytes))
        piece = stream.read(rows * row_bytes)
        if len(piece) < rows * row_bytes:
            raise ValueError(f"it ends after {done + len(piece) // row_bytes} of {count} rows")
        done += rows
        yield np.frombuffer(piece, dtype).reshape(rows, width)


def cut_anew(blocks: Iterable[NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of arrays (any number, features) in arrays of `rows`, of which the last may have fewer. Each
    overwrites the one before it."""
    batch, filled = np.empty(0), 0
    # Whoever takes a batch is done with it before the next one: it is written, hashed or copied.
    for block in blocks:
        if not batch.size:
            batch = np.empty((rows, *block.shape[1:]), block.dtype)
        while len(block):
            taken = min(len(block), rows - filled)
            batch[filled : filled + taken] = block[:taken]
            filled, block = filled + taken, block[taken:]
            if filled == rows:
                yield batch
                filled = 0
    if filled:
        yield batch[:filled]


def file_identity(path: Path, field: str) -> tuple[str, int, int, int]:
    """Return a key to this state of a file: resolved path, bytes, mtime and ctime in ns (a copy may keep its
    mtime). UserError: no such file."""
    try:
        resolved = path.resolve(strict=True)
        stat = resolved.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{field}: there is no file {path} ({reason(error)})") from None
    if not resolved.is_file():
        raise UserError(f"{field}: {path} is not a file")
    return str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def one_size(shape: tuple[int, ...]) -> str:
    """Say how pictures of different sizes become alike. shape: of one of them."""
    return f"give pictures of one size, or train with one for all, such as --training.data.size {shape[0]} {shape[1]}"


def check_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """Return the shape of one image. Raises UserError where no image can have it."""
    if not shape or min(shape) < 1 or math.prod(shape) > MOST_FEATURES:
        raise UserError(
            f"{where}: an image of shape {tuple(shape)} cannot be used; expected 1 to {MOST_FEATURES} values an image"
        )
    return tuple(int(size) for size in shape)


def is_channels_first(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether an image has the channels of the last axis of `shape` in its first."""
    return len(shape) == 3 and given == (shape[2], *shape[:2]) != shape


def shaped(part: Part, shape: tuple[int, ...]) -> Part:
    """Give the images of a part another shape, row-major; none given: as they are. Channels first are moved, also
    where the shape says that they come last."""
    if not shape:
        return Part(part.name, part.identity, lambda: _channels_last(part.open()))

    def opened() -> OpenedPart:
        contents = part.open()
        if math.prod(shape) != contents.features:
            raise UserError(
                f"{contents.where}: training.data.shape is {shape}, but an image has {contents.features} numbers "
                f"({contents.shape})"
            )
        moves = is_channels_first(contents.shape, shape)
        return _moved(contents, shape) if moves else replace(contents, shape=shape)

    return Part(part.name, (*part.identity, shape), opened)


def _channels_last(contents: OpenedPart) -> OpenedPart:
    """Move the channels of images that are (channels, height, width), as torch has them, behind height and width; a
    single channel goes."""
    # A last axis that can be channels is taken for them, whatever stands first.
    first = contents.shape
    if len(first) != 3 or first[0] not in CHANNELS or first[2] in CHANNELS:
        return contents
    channels, *sides = first
    return _moved(contents, (*sides, channels) if channels > 1 else tuple(sides))


def _moved(contents: OpenedPart, last: tuple[int, ...]) -> OpenedPart:
    """Move the first axis of images behind the others. last: their shape then."""
    first = contents.shape

    def moved(block: NDArray[Any]) -> NDArray[Any]:
        return np.moveaxis(block.reshape(-1, *first), 1, -1).reshape(len(block), -1)

    kinds = (" x ".join(map(str, shape)) for shape in (first, last))
    said = [contents.found, "images of {}, channels first, are read as {}".format(*kinds)]
    return replace(
        contents, shape=last, blocks=lambda: map(moved, contents.blocks()), found="; ".join(filter(None, said))
    )

"""The canonical file of one part: an Arrow IPC file with columns `image` and `label`, written once and memory-mapped.

All record batches but the last have the same number of rows, none is compressed and nothing is null, so a column
of a batch is a NumPy view on the file. It must not know where the data come from or where the file lies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_128

from ffpipe.data.source import BLOCK_BYTES, Contents, check_labels
from ffpipe.system.errors import UserError
from ffpipe.system.memory import unmap

FORMAT = 1
_KEY = b"ffpipe"
# Images that a fingerprint reads; all of a large set would take minutes.
SAMPLE = 1000
# Of a file, what a process has in sight at most.
IN_SIGHT = 256 << 20
# What Linux may bring in with a page that is touched, where the cache holds the file in large pages.
AROUND = 2 << 20


class BadFile(Exception):
    """The file is not one that `write` wrote, or is no longer whole."""


def write(sink: BinaryIO, contents: Contents, classes: int, batch_bytes: int = BLOCK_BYTES) -> None:
    """Write `contents` in bounded memory, checking it on the way.

    Raises UserError: a label outside 0..classes-1, NaN or infinity in an image, blocks that do not have the
    promised shape or number of rows. Leaves `sink` open.
    """
    check_labels(contents.labels, classes, contents.where)
    count, features = len(contents.labels), contents.features
    header = {
        "format": FORMAT,
        "shape": contents.shape,
        "divisor": contents.divisor,
        "classes": classes,
        "count": count,
    }
    schema = pa.schema(
        [
            pa.field("image", pa.list_(pa.from_numpy_dtype(contents.dtype), features), nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ],
        metadata={_KEY: json.dumps(header)},
    )
    done = 0
    with pa.ipc.new_file(sink, schema) as writer:
        for block in _batches(contents, max(1, batch_bytes // (features * contents.dtype.itemsize))):
            labels = contents.labels[done : done + len(block)]
            images = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), features)
            writer.write_batch(pa.RecordBatch.from_arrays([images, pa.array(labels)], schema=schema))
            done += len(block)


class Stored:
    """The canonical file, memory-mapped: the operating system holds what is in use, not this process."""

    def __init__(self, path: Path) -> None:
        """Raises BadFile for anything but a whole canonical file, also where there is none."""
        try:
            self._open(path)
        # Arrow's own, and what a damaged file makes of the JSON or of NumPy's views.
        except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError, OverflowError) as error:
            raise BadFile(f"{path}: {error}") from None

    def _open(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        header = json.loads((reader.schema.metadata or {})[_KEY])
        _require(header["format"] == FORMAT and header["classes"] > 0 and header["divisor"] in (1, 16, 255), "header")
        self.shape: tuple[int, ...] = tuple(header["shape"])
        self.divisor: int = header["divisor"]
        self.classes: int = header["classes"]
        self.features = math.prod(self.shape)
        self.path = path
        self._seen = 0  # bytes in sight, at most, of a large file
        self._images: list[NDArray[Any]] = []
        self._labels: list[NDArray[np.int64]] = []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate()
            images = batch.column("image").values.to_numpy(zero_copy_only=True)
            labels = batch.column("label").to_numpy(zero_copy_only=True)
            _require(images.dtype in (np.uint8, np.float32) and labels.dtype == np.int64, "column types")
            self._images.append(images.reshape(len(labels), self.features))
            self._labels.append(labels)
        sizes = [len(labels) for labels in self._labels]
        self._rows = sizes[0]
        _require(0 < sizes[-1] <= self._rows and set(sizes[:-1]) <= {self._rows}, "batch sizes")
        _require(sum(sizes) == header["count"], "count")
        self.dtype = self._images[0].dtype
        self._large = self.nbytes > IN_SIGHT
        if self._large:
            self._look_away()  # to open it was to touch all of its batches

    @property
    def nbytes(self) -> int:
        """Of images and labels on disk, all of which may come to lie in memory while there is room."""
        return sum(part.nbytes for part in (*self._images, *self._labels))

    @property
    def most_in_sight(self) -> int:
        """Bytes that this process may come to have of the file: all of a small one."""
        return min(self.nbytes, IN_SIGHT)

    @property
    def fingerprint(self) -> str:
        """Of sizes, all labels and a sample of the images: other data have another, if not by a few images alone."""
        hashed = xxh3_128(repr((len(self), self.shape, self.divisor, self.classes, str(self.dtype))).encode())
        for labels in self._labels:
            hashed.update(labels.data)
        sample = np.linspace(0, len(self) - 1, min(SAMPLE, len(self)), dtype=np.int64)
        at_once = max(1, BLOCK_BYTES // (self.features * self.dtype.itemsize))
        for first in range(0, len(sample), at_once):
            hashed.update(self.images(sample[first : first + at_once]).data)
        return hashed.hexdigest()

    def __len__(self) -> int:
        return self._rows * (len(self._labels) - 1) + len(self._labels[-1])

    def images(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Images as stored (uint8 or float32), shape (n, features), for rows (n,) within 0..len-1."""
        return self._gather(self._images, rows, (self.features,))

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels, int64 (n,), for rows (n,) within 0..len-1."""
        return self._gather(self._labels, rows, ())

    def _gather(self, batches: list[NDArray[Any]], rows: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[Any]:
        if len(batches) == 1 and not self._large:
            return batches[0][rows]
        gathered = np.empty((len(rows), *shape), batches[0].dtype)
        for some in self._portions(len(rows), batches[0].itemsize * math.prod(shape)):
            number, row = np.divmod(rows[some], self._rows)
            for touched in np.unique(number):
                wanted = number == touched
                gathered[some][wanted] = batches[touched][row[wanted]]
        return gathered

    def _portions(self, count: int, size: int) -> Iterator[slice]:
        """Of `count` rows of `size` bytes: all, or of a large file so many at a time as may be in sight."""
        if not self._large:
            yield slice(count)
            return
        touches = size + AROUND
        at_once = max(1, IN_SIGHT // touches)
        for first in range(0, count, at_once):
            seen = min(at_once, count - first) * touches
            if self._seen + seen > IN_SIGHT:
                self._look_away()
            self._seen += seen
            yield slice(first, first + at_once)

    def _look_away(self) -> None:
        """Have nothing of the file in sight."""
        self._seen = 0
        for part in (*self._images, *self._labels):
            unmap(part.ctypes.data, part.nbytes)


def _batches(contents: Contents, rows: int) -> Iterator[NDArray[Any]]:
    """The blocks of `contents`, checked and cut anew so that all but the last have exactly `rows` rows."""
    pending: list[NDArray[Any]] = []
    waiting = done = 0
    for block in contents.blocks():
        _check_block(block, contents, done)
        done += len(block)
        while waiting + len(block) >= rows:
            cut = rows - waiting
            yield np.concatenate([*pending, block[:cut]]) if pending else np.ascontiguousarray(block[:cut])
            pending, waiting, block = [], 0, block[cut:]
        if len(block):
            pending.append(block)
            waiting += len(block)
    if done != len(contents.labels):
        raise UserError(f"{contents.where}: there are {done} images, but {len(contents.labels)} labels")
    if pending:
        yield np.concatenate(pending)


def _check_block(block: NDArray[Any], contents: Contents, start: int) -> None:
    if block.shape[1:] != (contents.features,) or block.dtype != contents.dtype:
        raise UserError(
            f"{contents.where}: images from row {start} on are {block.dtype} {block.shape[1:]}, "
            f"but the first is {contents.dtype} ({contents.features},)"
        )
    if block.dtype.kind == "f":
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise UserError(f"{contents.where}: the image at row {start + int(finite.argmin())} holds NaN or infinity")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise BadFile(f"unexpected {what}")

"""The canonical file of one part: an Arrow IPC file with columns `image` and `label`, written once and memory-mapped.

All record batches but the last have the same number of rows, none is compressed and nothing is null, so a column
of a batch is a NumPy view on the file. It must not know where the data come from or where the file lies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_128

from ffpipe.data.labels import Classes
from ffpipe.data.scale import Scale
from ffpipe.data.source import BLOCK_BYTES, OpenedPart, cut_anew
from ffpipe.system.errors import UserError
from ffpipe.system.memory import unmap

# Part of the name of a file in the cache (cache.py): a new format writes new files beside the old ones, as does another
# reading of the same data.
FORMAT = 4
_KEY = b"ffpipe"
# Images that a fingerprint reads; all of a large set would take minutes.
SAMPLE = 1000
# Batches of a larger file are unmapped once they are read: pages of the file count as memory of this process, and all
# of them would be beyond a memory budget.
KEPT_MAPPED = 256 << 20


@dataclass(frozen=True)
class Meaning:
    """The meaning of labels and numbers of a part.

    found, labels: what its source made of what it was given, and of the labels, for people.
    """

    classes: Classes
    scale: Scale
    found: str = ""
    labels: str = ""

    def to_header(self) -> dict[str, Any]:
        scale = {**asdict(self.scale), "stored": str(self.scale.stored), "given": self.scale.given.str}
        return {"classes": asdict(self.classes), "scale": scale, "found": [self.found, self.labels]}

    @classmethod
    def from_header(cls, header: dict[str, Any]) -> Meaning:
        scale, classes = header["scale"], header["classes"]
        dtypes = {name: np.dtype(scale[name]) for name in ("stored", "given")}
        known = Classes(classes["count"], tuple(classes["names"]), classes["mapped"])
        return cls(known, Scale(**{**scale, **dtypes}), *header["found"])


# Arrow's own, and what a damaged file makes of the JSON or of NumPy's views.
_DAMAGE = (
    *(pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError),
    *(OverflowError, RecursionError),
)


class BadFile(Exception):
    """The file is not one that `write` wrote, or is no longer whole."""


def write(
    sink: BinaryIO, contents: OpenedPart, labels: NDArray[np.int64], meaning: Meaning, batch_bytes: int = BLOCK_BYTES
) -> None:
    """Write `contents`, whose numbers are scaled, and the class numbers of its examples in bounded memory.

    Raises UserError: NaN or infinity in an image, blocks that do not have the promised shape or number of rows. Leaves
    `sink` open.
    """
    features = contents.features
    header = {"format": FORMAT, "shape": contents.shape, "count": len(labels), **meaning.to_header()}
    schema = pa.schema(
        [
            pa.field("image", pa.list_(pa.from_numpy_dtype(contents.dtype), features), nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ],
        metadata={_KEY: json.dumps(header)},
    )
    done, rows = 0, max(1, batch_bytes // (features * contents.dtype.itemsize))
    with pa.ipc.new_file(sink, schema) as writer:
        for block in cut_anew(_checked(contents), rows):
            images = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), features)
            numbers = pa.array(labels[done : done + len(block)])
            writer.write_batch(pa.RecordBatch.from_arrays([images, numbers], schema=schema))
            done += len(block)


class Stored:
    """The canonical file, memory-mapped: the operating system holds what is in use, not this process.

    dtype, shape, features: of an image as it is stored. divisor: what it is divided by when it is read as float32.
    """

    def __init__(self, path: Path, kept_mapped: int = KEPT_MAPPED, block_bytes: int = BLOCK_BYTES) -> None:
        """Open a canonical file. kept_mapped: bytes that may stay in sight. block_bytes: of images that a fingerprint
        reads at once. Raises BadFile for anything but a whole one, also where there is none."""
        self._block_bytes = block_bytes
        try:
            self._open(path, kept_mapped)
        except _DAMAGE as error:
            raise BadFile(f"{path}: {error}") from None

    def _open(self, path: Path, kept_mapped: int) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        header = json.loads((reader.schema.metadata or {})[_KEY])
        self.shape: tuple[int, ...] = tuple(header["shape"])
        self.meaning = Meaning.from_header(header)
        self.divisor, self.classes = self.meaning.scale.divisor, self.meaning.classes.count
        self.features = math.prod(self.shape)
        self.path = path
        self._images: list[NDArray[Any]] = []
        self._labels: list[NDArray[np.int64]] = []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            # A damaged file may claim more than it holds, and NumPy's views would reach beyond its end.
            batch.validate()
            images = batch.column("image").values.to_numpy(zero_copy_only=True)
            labels = batch.column("label").to_numpy(zero_copy_only=True)
            self._images.append(images.reshape(len(labels), self.features))
            self._labels.append(labels)
        *others, last = sizes = [len(labels) for labels in self._labels]
        self._rows = sizes[0]
        # Rows are found by a division (_gather), so batches of other sizes would silently give other rows.
        whole = 0 < last <= self._rows and set(others) <= {self._rows} and sum(sizes) == header["count"]
        if header["format"] != FORMAT or not whole:
            raise ValueError("it is of another format or not whole")
        self.dtype = self._images[0].dtype
        size = sum(part.nbytes for part in (*self._images, *self._labels))
        self._large = size > kept_mapped
        # Bytes of the file that count as memory of a process which reads it, at most.
        self.most_in_sight = min(size, kept_mapped)
        if self._large:
            for part in self._images:  # to open the file was to touch all of its batches
                unmap(part)

    @property
    def fingerprint(self) -> str:
        """Hash of sizes, all labels and a sample of the images: data that differ in more than a few images differ."""
        hashed = xxh3_128(repr((len(self), self.shape, self.divisor, self.classes, str(self.dtype))).encode())
        for labels in self._labels:
            hashed.update(labels.data)
        sample = np.linspace(0, len(self) - 1, min(SAMPLE, len(self)), dtype=np.int64)
        # In blocks: a thousand of the largest images are 67 GB.
        at_once = max(1, self._block_bytes // (self.features * self.dtype.itemsize))
        for first in range(0, len(sample), at_once):
            hashed.update(self.images(sample[first : first + at_once]).data)
        return hashed.hexdigest()

    def __len__(self) -> int:
        return self._rows * (len(self._labels) - 1) + len(self._labels[-1])

    def images(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the images as stored (uint8 or float32), shape (n, features), for rows (n,) within 0..len-1."""
        return self._gather(self._images, rows)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels, int64 (n,), for rows (n,) within 0..len-1."""
        return self._gather(self._labels, rows)

    def _gather(self, batches: list[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
        if len(batches) == 1:
            return batches[0][rows]
        gathered = np.empty((len(rows), *batches[0].shape[1:]), batches[0].dtype)
        # Batch by batch, so that each is touched once and its pages are let go of before the next one's come in.
        number, row = np.divmod(rows, self._rows)
        for touched in np.unique(number):
            wanted = number == touched
            gathered[wanted] = batches[touched][row[wanted]]
            if self._large:
                unmap(batches[touched])
        return gathered


def _checked(contents: OpenedPart) -> Iterator[NDArray[Any]]:
    """Yield the blocks of `contents` if they are what it says of them. Raises UserError."""
    done = 0
    for block in contents.blocks():
        if block.shape[1:] != (contents.features,) or block.dtype != contents.dtype:
            raise UserError(
                f"{contents.where}: images from row {done} on are {block.dtype} {block.shape[1:]}, "
                f"but the first is {contents.dtype} ({contents.features},)"
            )
        # Once, when it is written: no step has to look for what would make all weights NaN.
        if block.dtype.kind == "f" and not (finite := np.isfinite(block).all(axis=1)).all():
            raise UserError(f"{contents.where}: the image at row {done + int(finite.argmin())} holds NaN or infinity")
        done += len(block)
        yield block
    if done != len(contents.labels):
        raise UserError(f"{contents.where}: there are {done} images, but {len(contents.labels)} labels")

"""Images of a table or of an archive, for predictions: no label is needed, and one that is there is left alone.

They come in blocks, so memory does not grow with the file. This module must not know of data sets.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from ffpipe.data import columns
from ffpipe.data.columns import Wanted
from ffpipe.data.scale import Range
from ffpipe.data.source import BLOCK_BYTES, OpenedPart, of_stream
from ffpipe.data.tables import TABLES, Table
from ffpipe.system.errors import UserError, refusing
from ffpipe.system.memory import refuse_beyond_host

# Rows that are read at once where each is by itself; if none of the first has an image, no other is looked at.
FIRST_ROWS = 256
# Arrays of images by their usual names, those of a test part first.
NAMES = ("x_test", "test_images", "test_x", "images", "x", "data", "arr_0", "x_train", "train_images", "train_x")


class Tabular:
    """The images of a Parquet, Arrow or CSV file.

    contents: all of them, as a source has them; None where the first cannot be read. wanted: the columns that they
    are in. Raises UserError where not even the first rows have an image of so many features. kind: key of TABLES.
    """

    def __init__(self, path: Path, kind: str, wanted: Wanted, features: int) -> None:
        self._path, self._features, self._open = path, features, TABLES[kind]
        self.contents, wrong = None, None
        # Every column may be a pixel, or one of them a label.
        unlabelled = replace(wanted, label=None)
        for self.wanted in (unlabelled, wanted):
            try:
                self.contents = columns.contents(self._open, [path], self.wanted)
            except UserError as error:
                wrong = wrong or error
            else:
                if self.contents.features == features:
                    return
        if self.contents is not None:
            shape = self.contents.shape
            raise UserError(f"{path}: its images have the shape {shape}; expected {features} numbers")
        self.wanted = unlabelled
        if all(isinstance(row, UserError) for _, row in islice(self._apart(0), FIRST_ROWS)):
            raise wrong or UserError(f"{path}: there are no images")

    def readable(self) -> OpenedPart | None:
        """Return the contents without the rows that cannot be read, in blocks of one; None where `contents` is."""

        def blocks() -> Iterator[NDArray[Any]]:
            return (row[np.newaxis] for _, row in self.rows() if not isinstance(row, UserError))

        return self.contents and replace(self.contents, blocks=blocks)

    def rows(self) -> Iterator[tuple[int, NDArray[Any] | UserError]]:
        """Yield an image (features,), or what is wrong with it, for each row. Once one cannot be read, each of the
        others is read by itself."""
        done = 0
        if self.contents is not None:
            with suppress(UserError):
                for block in self.contents.blocks():
                    yield from enumerate(block, done)
                    done += len(block)
                return
        yield from self._apart(done)

    def _apart(self, first: int) -> Iterator[tuple[int, NDArray[Any] | UserError]]:
        """Yield the rows from `first` on, each read by itself."""
        whole, row = self._open(self._path), 0
        for batch in whole.read(whole.schema.names, FIRST_ROWS):
            for at in range(len(batch)):
                if row >= first:
                    yield row, self._one(whole, batch.slice(at, 1), row)
                row += 1

    def _one(self, whole: Table, row: pa.RecordBatch, number: int) -> NDArray[Any] | UserError:
        """Read the image of one row, from a table that has no other."""
        only = replace(whole, read=lambda names, _: iter([row]))
        try:
            (image,) = next(columns.contents(lambda _: only, [self._path], self.wanted).blocks())
        except UserError as error:
            return UserError(str(error).replace("at row 0", f"at row {number}"))
        if image.size != self._features:
            return UserError(f"{self._path}: the image at row {number} has {image.size} numbers, not {self._features}")
        found: NDArray[Any] = image
        return found


def archive(
    path: Path, shape: tuple[int, ...], named: Sequence[str] = (), block_bytes: int = BLOCK_BYTES
) -> OpenedPart:
    """Open the images of a .npz file. shape: of one. named: arrays that are preferred, by name. Raises UserError."""
    with _opened(path) as zipped:
        headers = {}
        for member in (each for each in zipped.namelist() if each.endswith(".npy")):
            with zipped.open(member) as stream:
                headers[member.removesuffix(".npy")] = _header(stream)
    size = math.prod(shape)
    fit = {
        name: (dims, dtype)
        for name, (dims, _, dtype) in headers.items()
        if dtype.kind in "biuf" and len(dims) > 1 and math.prod(dims[1:]) == size
    }
    spelled = {name.lower(): name for name in fit} | {name: name for name in fit}
    name = next((spelled[name] for name in (*named, *NAMES) if name in spelled), "")
    name = name or (next(iter(fit)) if len(fit) == 1 else "")
    if not name:
        has = ", ".join(f"{name} {dims}" for name, (dims, _, _) in sorted(headers.items())) or "none"
        raise UserError(f"{path}: expected an array of images with {size} numbers each, as images or x; it has {has}")
    dims, dtype = fit[name]
    if headers[name][1]:  # by columns, which cannot be read row by row
        refuse_beyond_host(math.prod(dims) * dtype.itemsize, f"the array {name} of {path}", "save it in C order")
    blocks = partial(_blocks, path, f"{name}.npy", block_bytes)
    return OpenedPart(f"{path}: {name}", dims[1:], dtype, 0, np.empty(0), blocks)


def as_written(contents: OpenedPart) -> OpenedPart:
    """Return the same contents with bytes as whole numbers, since a CSV does not say what its numbers are."""
    numbers = Range.of(contents)
    if not numbers.bytes or numbers.high <= 1:
        return contents
    blocks = contents.blocks
    return replace(contents, dtype=np.dtype(np.uint8), blocks=lambda: (block.astype(np.uint8) for block in blocks()))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    # zipfile and NumPy's parser have as many ways to fail as a damaged archive has.
    with refusing(f"{path}: cannot be read", Exception), zipfile.ZipFile(path) as zipped:
        yield zipped


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an array's shape, whether it is stored by columns, and its dtype. Raises what NumPy's parser raises."""
    version = npy.read_magic(stream)
    if version != (1, 0):  # whose headers have 64 KiB at most
        raise ValueError(f"its header is of version {version}; expected (1, 0)")
    dims, by_columns, dtype = npy.read_array_header_1_0(stream)
    return tuple(dims), by_columns, dtype


def _blocks(path: Path, member: str, block_bytes: int) -> Iterator[NDArray[Any]]:
    """Yield arrays (n, features) in the dtype of the file."""
    with _opened(path) as zipped, zipped.open(member) as stream:
        (count, *rest), by_columns, dtype = _header(stream)
        width = math.prod(rest)
        if by_columns:
            whole = np.frombuffer(stream.read(count * width * dtype.itemsize), dtype, count * width)
            yield whole.reshape(count, *rest, order="F").reshape(count, width)
            return
        yield from of_stream(stream, dtype, count, width, block_bytes)

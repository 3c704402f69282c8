"""Images that a person wants classified: pictures, arrays, tables, archives and folders, as one row an image.

It must not know a file format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data.columns import Wanted
from ffpipe.data.discover import known_kind, tables_below
from ffpipe.data.opened import is_like, mode_of, open_images, row_of
from ffpipe.data.scale import BYTE, Given
from ffpipe.data.source import BLOCK_BYTES, Contents
from ffpipe.data.tables import TABLES
from ffpipe.data.unlabelled import Tabular, archive, as_written
from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import expanded

# Files of a folder that are read; whatever else lies there is left alone.
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy")

# An image, or what is wrong with it.
Row = NDArray[np.float32] | UserError
# With its place in a file of several images; None in one of one.
Image = tuple[int | None, Row]


@dataclass(frozen=True)
class Inputs:
    """Images for one network. shape: of those that it was trained on. scale: of their numbers. data: how they were
    read. block_bytes: of an archive that are read at once."""

    shape: tuple[int, ...]
    scale: Given
    data: Data
    block_bytes: int = BLOCK_BYTES

    def images(self, path: str | Path) -> Iterator[Image]:
        """Yield each image of a file. Raises UserError where the file cannot be read, or not to its end."""
        kind = known_kind(expanded(path))
        if kind not in TABLES and kind != "npz":
            yield from self._of_file(path)
            return
        done = 0
        try:
            for index, image in self._of_table(expanded(path), kind) if kind in TABLES else self._of_archive(path):
                done = index + 1
                yield index, image
        except UserError as error:
            left_out = f"; its images from number {done} on are left out" if done else ""
            raise UserError(f"{error}{left_out}") from None

    def _of_file(self, path: str | Path) -> Iterator[Image]:
        """Yield the picture or the images of the array in a file of their own."""
        file = open_images(path, self.shape, self.scale, self.data.scale, self.data.size)
        for index in range(len(file)):
            place = index if file.many else None
            try:
                yield place, file[index]
            except UserError as error:
                yield place, error

    def _of_archive(self, path: str | Path) -> Iterator[tuple[int, Row]]:
        arrays = self.data.arrays
        contents = archive(expanded(path), self.shape, arrays[2:3] or arrays[:1], self.block_bytes)
        return self._rows(_counted(contents), contents.shape, self._divisor(contents), str(path))

    def _of_table(self, path: Path, kind: str) -> Iterator[tuple[int, Row]]:
        """Yield the images of a table. Once one cannot be read, each of the others is read by itself."""
        data, features, done = self.data, math.prod(self.shape), 0
        wanted = Wanted(data.image_column, data.label_column, mode_of(self.shape), data.size)
        table = Tabular(path, kind, wanted, features)
        contents = table.contents
        if contents is None:  # its first picture cannot be read
            yield from self._rows(table.apart(0), self.shape, BYTE, str(path))
            return
        if kind == "csv" and not contents.divisor and self.scale.kind != "f":  # which was trained on such numbers
            contents = as_written(contents)
        divisor = self._divisor(contents)
        try:
            for index, row in self._rows(_counted(contents), contents.shape, divisor, str(path)):
                yield index, row
                done = index + 1
        except UserError:
            yield from self._rows(table.apart(done), contents.shape, divisor, str(path))

    def _rows(
        self, images: Iterator[tuple[int, NDArray[Any] | UserError]], given: tuple[int, ...], divisor: float, path: str
    ) -> Iterator[tuple[int, Row]]:
        """Yield images of a shape that is given as rows of the network's; of each that is bad, what is wrong with it.

        Raises UserError for another shape.
        """
        shape = self.shape
        # As training takes them too.
        channels_first = len(shape) == 3 and given == (shape[2], *shape[:2]) != shape
        if not channels_first and not is_like(given, shape):
            raise UserError(f"{path}: its images have the shape {given}; expected {shape}")
        for index, image in images:
            row: Row
            try:
                if isinstance(image, UserError):
                    raise image
                image = np.moveaxis(image.reshape(given), 0, -1) if channels_first else image
                row = row_of(image, divisor, f"{path}[{index}]")
            except UserError as error:
                row = error
            yield index, row

    def _divisor(self, contents: Contents) -> float:
        """Return what the numbers are divided by."""
        return contents.divisor or self.scale.divisor_of(contents, self.data.scale)


def _counted(contents: Contents) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the images of a source with their numbers."""
    return enumerate(image for block in contents.blocks() for image in block)


def files_of(path: str | Path) -> Iterator[str | Path]:
    """Yield the path, or where it is a folder its pictures and arrays, recursively and in sorted order; where it has
    neither, its tables.

    Raises UserError where the folder cannot be read or has none.
    """
    if not str(path):  # which would be the working folder
        raise UserError("the name of an image is empty: give a file or a folder")
    root = expanded(path)
    if not os.path.isdir(root):
        yield path
        return
    found = _below(root)
    first = next(found, None)
    if first is None:
        found = iter(tables_below(root))
        first = next(found, None)
    if first is None:
        endings = ", ".join(ENDINGS)
        raise UserError(f"{path}: the folder has neither a picture ({endings}) nor a table (Parquet, Arrow, CSV)")
    yield first
    yield from found


def _below(root: Path) -> Iterator[Path]:
    """Yield files of a folder, sorted by their parts. Hidden ones are left out, links to folders not followed."""
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path.suffix.lower() in ENDINGS and not path.is_dir():
            yield path
        elif path == root or not path.is_symlink():
            try:
                inside = [Path(entry.path) for entry in os.scandir(path) if not entry.name.startswith(".")]
            except NotADirectoryError:
                continue
            except OSError as error:
                raise UserError(f"{path}: {reason(error)}") from None
            waiting += sorted(inside, reverse=True)

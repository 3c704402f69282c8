"""What a person hands over to be classified: pictures, arrays, tables, archives and folders, as one row an image.

It must not know a file format.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data.columns import Wanted
from ffpipe.data.discover import known_kind
from ffpipe.data.opened import is_like, mode_of, open_images, row_of
from ffpipe.data.scale import Given
from ffpipe.data.source import Contents
from ffpipe.data.unlabelled import TABLES, archive, as_written, table
from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import expanded

# Files of a folder that are read; whatever else lies there is left alone.
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy")

# Its place in a file of several images, None in one of one; and the row, or what is wrong with it.
Image = tuple[int | None, NDArray[np.float32] | UserError]


@dataclass(frozen=True)
class Inputs:
    """Images for one network. shape: of those that it was trained on. scale: of their numbers. data: how they were
    read."""

    shape: tuple[int, ...]
    scale: Given
    data: Data

    def images(self, path: str | Path) -> Iterator[Image]:
        """Each image of a file. Raises UserError where the file cannot be read, or not to its end."""
        kind = known_kind(expanded(path))
        if kind in TABLES or kind == "npz":
            yield from self._numbered(self._contents(expanded(path), kind), str(path))
            return
        file = open_images(path, self.shape, self.scale, self.data.scale, self.data.size)
        for index in range(len(file)):
            place = index if file.many else None
            try:
                yield place, file[index]
            except UserError as error:
                yield place, error

    def _contents(self, path: Path, kind: str) -> Contents:
        """A table or an archive with its images in any shape that has the right numbers. Raises UserError."""
        data, features = self.data, int(np.prod(self.shape))
        if kind == "npz":
            contents = archive(path, self.shape, data.arrays[2:3] or data.arrays[:1])
        else:
            wanted = Wanted(data.image_column, data.label_column, mode_of(self.shape), data.size)
            contents = table(path, kind, wanted, features)
        if kind == "csv" and not contents.divisor and self.scale.kind != "f":  # which was trained on such numbers
            contents = as_written(contents)
        if not (self._channels_first(contents) or is_like(contents.shape, self.shape)):
            raise UserError(f"{path}: its images have the shape {contents.shape}; expected {self.shape}")
        return contents

    def _channels_first(self, contents: Contents) -> bool:
        """Whether images have their channels before height and width, as training takes them too."""
        shape = self.shape
        return len(shape) == 3 and contents.shape == (shape[2], *shape[:2]) != shape

    def _numbered(self, contents: Contents, path: str) -> Iterator[Image]:
        """The images in their order, with their numbers."""
        divisor = contents.divisor or self.scale.divisor_of(contents, self.data.scale)
        index = 0
        try:
            for block in contents.blocks():
                images = block.reshape(len(block), *contents.shape)
                for image in np.moveaxis(images, 1, -1) if self._channels_first(contents) else images:
                    try:
                        yield index, row_of(image, divisor, f"{path}[{index}]")
                    except UserError as error:
                        yield index, error
                    index += 1
        except UserError as error:
            raise UserError(f"{error}; its images from number {index} on are left out") from None


def files_of(path: str | Path) -> Iterator[str | Path]:
    """The path, or where it is a folder its pictures and arrays, recursively and in sorted order.

    Raises UserError where the folder cannot be read or has none.
    """
    root = expanded(path)
    if not os.path.isdir(root):
        yield path
        return
    found = False
    for file in _below(root):
        found = True
        yield file
    if not found:
        raise UserError(f"{path}: there is no picture in the folder; expected names in {', '.join(ENDINGS)}")


def _below(root: Path) -> Iterator[Path]:
    """Files of a folder, sorted by their parts; hidden ones are left out, and links to folders are not followed."""
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

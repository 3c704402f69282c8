"""Images that a person wants classified: pictures, arrays, tables, archives and folders, as one row an image.

It must not know a file format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data.below import files_below
from ffpipe.data.columns import Wanted
from ffpipe.data.discover import PICTURES, known_kind, tables_below
from ffpipe.data.images import decode
from ffpipe.data.scale import Given
from ffpipe.data.source import BLOCK_BYTES, MOST_FEATURES, OpenedPart, in_blocks, is_channels_first
from ffpipe.data.sources import refuse_other_columns
from ffpipe.data.tables import TABLES
from ffpipe.data.unlabelled import Tabular, archive, as_written
from ffpipe.system.errors import UserError, reason, refusing
from ffpipe.system.files import expanded, read_whole, size_of

# Files of a folder that are read; whatever else lies there is left alone.
ENDINGS = (*PICTURES, ".npy")

# Bytes of a file that is a picture: a picture that can be used has fewer, were it not compressed at all.
LARGEST_PICTURE = 4 * MOST_FEATURES
# Bytes of the header of a .npy file, all of which NumPy reads before it looks at them.
LARGEST_HEADER = 1 << 16
_MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_NPY = b"\x93NUMPY"

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
        """Yield each image of a file. Raises UserError where the file has none, or cannot be read to its end."""
        kind = known_kind(expanded(path))
        if kind not in TABLES and kind != "npz":
            yield from self._of_file(path)
            return
        # Images come while the file is read: where its end is damaged, those before it have been answered by then.
        done = 0
        try:
            for index, image in self._of_table(expanded(path), kind) if kind in TABLES else self._of_archive(path):
                done = index + 1
                yield index, image
        except UserError as error:
            left_out = f"; its images from number {done} on are left out" if done else ""
            raise UserError(f"{error}{left_out}") from None
        if not done:
            raise UserError(f"{path}: there is no image in it")

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
        images = (image for block in contents.blocks() for image in block)
        return self.rows(enumerate(images), contents.shape, self.divisor_of(contents, "npz"), str(path))

    def _of_table(self, path: Path, kind: str) -> Iterator[tuple[int, Row]]:
        data = self.data
        wanted = Wanted(data.image_column, data.label_column, mode_of(self.shape), data.size)
        table = Tabular(path, kind, wanted, math.prod(self.shape))
        refuse_other_columns(data, kind, [str(path)], str(path), table.wanted)
        contents = table.readable()
        if contents is None:  # its first picture cannot be read
            return self.rows(table.rows(), self.shape, self.scale.divisor_of_pictures(str(path), data.scale), str(path))
        return self.rows(table.rows(), contents.shape, self.divisor_of(contents, kind), str(path))

    def divisor_of(self, contents: OpenedPart, source: str) -> float:
        """Return what images are divided by. source: they are of. Raises UserError."""
        if source == "csv" and not contents.divisor and self.scale.kind != "f":  # which was trained on such numbers
            contents = as_written(contents)
        return self.scale.divisor_of(contents, self.data.scale)

    def rows(
        self, images: Iterator[tuple[int, NDArray[Any] | UserError]], given: tuple[int, ...], divisor: float, path: str
    ) -> Iterator[tuple[int, Row]]:
        """Yield images of a shape that is given as rows of the network's; of each that is bad, what is wrong with it.

        Raises UserError for another shape.
        """
        channels_first = is_channels_first(given, self.shape)
        if not channels_first and not is_like(given, self.shape):
            raise UserError(f"{path}: its images have the shape {given}; expected {self.shape}")
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


def files_of(path: str | Path) -> Sequence[str | Path]:
    """Return the path, or where it is a folder its pictures and arrays, recursively and in sorted order; where it has
    neither, its tables.

    Raises UserError where the folder cannot be read or has none.
    """
    root = expanded(path)
    if not os.path.isdir(root):
        return [path]
    found = [file for file in files_below(root) if file.suffix.lower() in ENDINGS] or tables_below(root)
    if not found:
        endings = ", ".join(ENDINGS)
        raise UserError(f"{path}: the folder has neither a picture ({endings}) nor a table (Parquet, Arrow, CSV)")
    return found


@dataclass(frozen=True)
class OpenedImages:
    """The images of a file. array: (n, ...), each of as many numbers as an image of the network has, perhaps mapped
    into memory. divisor: what its numbers are divided by. many: whether the file is a row of images, be it of one."""

    path: Path
    array: NDArray[Any]
    divisor: float
    many: bool = False

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return one image as a row (features,). Raises UserError where it has NaN or infinity."""
        return row_of(self.array[index], self.divisor, f"{self.path}[{index}]" if self.many else str(self.path))


def row_of(image: NDArray[Any], divisor: float, where: str) -> NDArray[np.float32]:
    """Return an image as a row (features,). where: names it. Raises UserError where it has NaN or infinity."""
    # Numbers too large for float32 become infinite, which is refused below in words.
    with np.errstate(all="ignore"):
        divided = np.divide(image, divisor, dtype=np.float32, casting="unsafe")
    row: NDArray[np.float32] = divided.reshape(-1)
    if not np.isfinite(row).all():
        raise UserError(f"{where}: it holds NaN or infinity; expected finite float32 numbers")
    return row


def open_images(
    path: str | Path, shape: tuple[int, ...], scale: Given, asked: float = 0.0, size: tuple[int, ...] = ()
) -> OpenedImages:
    """Open a picture, or an array in a .npy file, of images for a network.

    shape: of the images that it was trained on: (height, width), (height, width, channels), or any other for .npy. The
    colours of a picture are converted to the channels of `shape`. An array is one image, of `shape` or flat, or n of
    them. scale, asked: as training had them, for numbers of an array. size: height and width that training resized
    pictures to; empty: it did not. Raises UserError: no regular file, unreadable, too large, of another size or dtype.
    """
    path = expanded(path)
    with refusing(f"cannot read {path}", (FileNotFoundError, ValueError)):
        if path.suffix.lower() != ".npy":
            return OpenedImages(
                path, _picture(path, shape, size)[np.newaxis], scale.divisor_of_pictures(str(path), asked)
            )
        array = _array(path)
    images, many = _rows(path, array, shape)
    numbers = OpenedPart(str(path), shape, images.dtype, 0, np.empty(0), lambda: in_blocks(images))
    return OpenedImages(path, images, scale.divisor_of(numbers, asked), many)


def mode_of(shape: tuple[int, ...]) -> str:
    """Return the colours, by Pillow's name, of pictures of a shape; empty where no picture has it."""
    channels = 1 if len(shape) == 2 else shape[-1]
    return _MODE_OF_CHANNELS.get(channels, "") if len(shape) in (2, 3) else ""


def _picture(path: Path, shape: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decode a picture. Raises ValueError where it is damaged or of another format."""
    mode = mode_of(shape)
    if not mode:
        raise UserError(f"{path}: images of shape {shape} cannot come from a picture; give a .npy file of that shape")
    pixels = decode(read_whole(path, LARGEST_PICTURE), mode, size)
    if pixels.shape[:2] != shape[:2]:
        raise UserError(
            f"{path}: it is {pixels.shape[0]} high and {pixels.shape[1]} wide; expected {shape[0]} and {shape[1]}"
        )
    return pixels


def _array(path: Path) -> NDArray[Any]:
    """Map an array, so that nothing is allocated for a shape that the header only claims. Raises ValueError."""
    size_of(path)  # which refuses what an open would wait for
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY) + 6)
        if not start.startswith(_NPY):
            raise ValueError("it is no .npy file of NumPy")
        version, length = start[len(_NPY)], int.from_bytes(start[len(_NPY) + 2 :], "little")
        if version > 1 and length > LARGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, more than {LARGEST_HEADER:,}")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser has as many ways to fail as a damaged header has
        raise ValueError(reason(error)) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype}; expected whole numbers, bools or floats")
    return array


def _rows(path: Path, array: NDArray[Any], shape: tuple[int, ...]) -> tuple[NDArray[Any], bool]:
    """Tell one image from a row of images: (n, ...), and whether they are a row. Raises UserError."""
    flat = (math.prod(shape),)
    if is_channels_first(array.shape[-3:], shape):
        array = np.moveaxis(array, -3, -1)
    # The very shape first: (1, 28, 28) is a row of one image, though it is like a single one too.
    for fits in ((shape, flat).__contains__, lambda given: is_like(given, shape)):
        if fits(array.shape):
            return array[np.newaxis], False
        if array.ndim > 1 and len(array) and fits(array.shape[1:]):
            return array, True
    one, many = " or ".join(map(str, dict.fromkeys((shape, flat)))), ", ".join(map(str, ("n", *shape)))
    raise UserError(f"{path}: it has shape {array.shape}; expected {one}, or ({many}) for n images")


def is_like(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether an image of another shape has its numbers in the same order: axes of length 1 make no difference,
    and a flat one has but one order."""
    a, b = (tuple(size for size in each if size != 1) for each in (given, shape))
    return math.prod(a) == math.prod(b) and (a == b or len(a) < 2 or len(b) < 2)

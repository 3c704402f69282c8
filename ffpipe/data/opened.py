"""Images in one file of the user's, for predictions: a picture, or an array of one image or of many.

It must not know of data sets; its rows have the layout and the scale of those of `Examples.images`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.data.images import decode
from ffpipe.data.scale import BYTE, Given
from ffpipe.data.source import BLOCK_BYTES, MOST_FEATURES, Contents
from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import expanded, read_whole, size_of

# Bytes of a file that is a picture: a picture that can be used has fewer, were it not compressed at all.
LARGEST_PICTURE = 4 * MOST_FEATURES
# Bytes of the header of a .npy file, all of which NumPy reads before it looks at them.
LARGEST_HEADER = 1 << 16
_MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_NPY = b"\x93NUMPY"


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
    try:
        if path.suffix.lower() != ".npy":
            return OpenedImages(path, _picture(path, shape, size)[np.newaxis], BYTE)
        array = _array(path)
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    images, many = _rows(path, array, shape)
    return OpenedImages(path, images, scale.divisor_of(_contents(path, images, shape), asked), many)


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
    size_of(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY) + 6)
        if not start.startswith(_NPY):
            raise ValueError("it is no .npy file of NumPy")
        version, length = start[len(_NPY)], int.from_bytes(start[len(_NPY) + 2 :], "little")
        if version > 1 and length > LARGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, more than {LARGEST_HEADER:,}")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy's parser has as many ways to fail as a damaged header has
        raise ValueError(reason(error)) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype}; expected whole numbers, bools or floats")
    return array


def _rows(path: Path, array: NDArray[Any], shape: tuple[int, ...]) -> tuple[NDArray[Any], bool]:
    """Tell one image from a row of images: (n, ...), and whether they are a row. Raises UserError."""
    flat = (math.prod(shape),)
    if len(shape) == 3 and array.ndim in (3, 4) and array.shape[-3:] == (shape[2], *shape[:2]) != shape:
        array = np.moveaxis(array, -3, -1)  # channels first, as training takes them too
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


def _contents(path: Path, images: NDArray[Any], shape: tuple[int, ...]) -> Contents:
    """Yield the numbers of an array, as those of a data set."""
    at_once = max(1, BLOCK_BYTES // (math.prod(shape) * images.itemsize))

    def blocks() -> Iterator[NDArray[Any]]:
        for first in range(0, len(images), at_once):
            yield images[first : first + at_once]

    return Contents(str(path), shape, images.dtype, 0, np.empty(0), blocks)

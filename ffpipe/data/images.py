"""One encoded image to an array: PNG or JPEG within a Parquet file, or a file of the user's for a prediction.

It must not know of data sets; what it returns has the layout and the scale of a row of `Examples.images`.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ffpipe.data.source import MOST_FEATURES
from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import expanded

FORMATS = ("PNG", "JPEG")

# Modes with eight bits or less a channel, and the one in which they are stored. Others (16-bit PNG) would lose bits;
# of grey with transparency, which networks on one channel cannot use, the grey is kept.
STORED_MODE = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
_PNG, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24
_MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(encoded: bytes, mode: str = "", size: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """PNG or JPEG bytes as uint8 (height, width) or (height, width, channels).

    mode: Pillow's name of the colours wanted ("L", "RGB", "RGBA"); empty: as they are. size: height and width to
    resize to; empty: as it is. Raises ValueError with a
    reason: damaged, of another format, more than 8 bits a channel, or too large (refused before it is unpacked).
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.mode not in STORED_MODE:
                raise ValueError(f"its mode is {image.mode}; expected 8 bits a channel")
            if bytes(memoryview(encoded)[:8]) == _PNG and memoryview(encoded)[_PNG_DEPTH] == 16:
                raise ValueError("it has 16 bits a channel; expected 8 bits a channel")  # Pillow drops the lower ones
            mode = mode or STORED_MODE[image.mode]
            if image.width * image.height * len(mode) > MOST_FEATURES:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MOST_FEATURES} values")
            converted = image.convert(mode)
            if size and size != (image.height, image.width):
                converted = converted.resize((size[1], size[0]))
            return np.array(converted)
    except UnidentifiedImageError:
        raise ValueError("it is no PNG or JPEG") from None
    except Exception as error:  # Pillow's decoders have as many ways to fail as a damaged image has
        raise ValueError(reason(error)) from None


def read_image(path: str | Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A PNG, JPEG or .npy file as float32 (features,), in row-major order of `shape`.

    shape: of the images that a network was trained on: (height, width), (height, width, channels), or any other
    for .npy. The colours of a PNG or JPEG are converted to the channels of `shape` and scaled to [0, 1]. An array
    of uint8 is scaled likewise and one of floats is taken as it is; it has `shape` or is flat. Raises UserError:
    unreadable, of another size or dtype, NaN or infinity.
    """
    path = expanded(path)
    values = _read_npy(path, shape) if path.suffix.lower() == ".npy" else _read_picture(path, shape)
    if values.dtype == np.uint8:
        return np.divide(values.reshape(-1), 255, dtype=np.float32)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32).reshape(-1)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: it holds NaN or infinity; expected finite float32 numbers")
    return values


def _read_picture(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    channels = 1 if len(shape) == 2 else shape[-1]
    if len(shape) not in (2, 3) or channels not in _MODE_OF_CHANNELS:
        raise UserError(f"{path}: images of shape {shape} cannot come from a picture; give a .npy file of that shape")
    try:
        pixels = decode(path.read_bytes(), _MODE_OF_CHANNELS[channels])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    if pixels.shape[:2] != shape[:2]:
        raise UserError(
            f"{path}: it is {pixels.shape[0]} high and {pixels.shape[1]} wide; expected {shape[0]} and {shape[1]}"
        )
    return pixels


def _read_npy(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        # Mapped, so that nothing is allocated for a shape that the header only claims.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser has as many ways to fail as a damaged header has
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: it is an archive of arrays; expected one array of shape {shape}")
    if array.shape not in (shape, (math.prod(shape),)):
        raise UserError(f"{path}: it has shape {array.shape}; expected {shape} or ({math.prod(shape)},)")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UserError(f"{path}: it holds {array.dtype}; expected uint8 (0 to 255) or floats")
    return array

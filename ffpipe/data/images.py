"""Encoded pictures: one as an array, and the colours that a set of them has in common, from their headers alone.

A colour set with some grey pictures is a normal set: its grey ones are read as colours. This module must not know where
pictures come from.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ffpipe.data.source import MOST_FEATURES
from ffpipe.system.errors import reason

# Such as people hold, and such as Pillow reads without loss of bits that it does not speak of (TIFF is none of these).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
SPELLED = "PNG, JPEG, BMP, GIF or WebP"

# Modes with eight bits or less a channel, and the one in which they are stored. Others (16-bit PNG) would lose bits;
# of grey with transparency, which networks on one channel cannot use, the grey is kept.
STORED_MODE = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
# Values of a picture that is made smaller, such as a photograph of 44 megapixels in colour has.
_MOST_RESIZED = 8 * MOST_FEATURES
GREYS = "greys of a palette"
_PNG, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24


def decode(encoded: bytes, mode: str = "", size: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """Decode a picture as uint8 (height, width) or (height, width, channels); of an animation the first frame.

    mode: Pillow's name of the colours wanted ("L", "RGB", "RGBA"); empty: as they are. size: height and width to
    resize to, or one number for both; empty: as it is. Raises ValueError with a reason: damaged, of another format,
    more than 8 bits a channel, or too large (refused before it is unpacked).
    """
    try:
        # Pillow warns of what is refused anyhow, and of transparency that is dropped.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.mode not in STORED_MODE:
                raise ValueError(f"its mode is {image.mode}; expected 8 bits a channel")
            # Arrow's buffers come here too, and cannot be asked how they begin.
            if bytes(memoryview(encoded)[:8]) == _PNG and memoryview(encoded)[_PNG_DEPTH] == 16:
                raise ValueError("it has 16 bits a channel; expected 8 bits a channel")  # Pillow drops the lower ones
            mode = mode or STORED_MODE[image.mode]
            most = _MOST_RESIZED if size else MOST_FEATURES
            if image.width * image.height * len(mode) > most:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {most} values")
            converted = image.convert(mode)
            if size and (size[0], size[-1]) != (image.height, image.width):
                converted = converted.resize((size[-1], size[0]))
            return np.array(converted)
    except UnidentifiedImageError:
        raise ValueError(f"it is not {SPELLED}") from None
    except Exception as error:  # Pillow's decoders have as many ways to fail as a damaged image has
        raise ValueError(reason(error)) from None


def mode_of(stream: IO[bytes]) -> str:
    """Return the mode in which a picture would be stored by itself; empty where that cannot be told. stream: its
    bytes, of which the headers are read, however long."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(stream, formats=FORMATS) as image:
            if image.mode == "P" and image.palette is not None:
                # pngquant turns grey pictures into such, and a set of greys stays one with them.
                palette = image.palette.getdata()[1]
                if palette[0::3] == palette[1::3] == palette[2::3]:
                    return GREYS
            return STORED_MODE.get(image.mode, "")
    except Exception:  # whoever decodes it will say what is wrong with it
        return ""


def common(modes: Iterable[str]) -> tuple[str, str]:
    """Return the mode that all pictures are read in, and what a person should know of it. Empty: each as it is."""
    found = set(modes) - {""}
    if len(found) < 2:
        return "", ""
    if found == {"L", GREYS}:
        return "L", ""
    return "RGB", f"pictures in {', '.join(sorted(found))} are read as RGB (training.data.mode)"

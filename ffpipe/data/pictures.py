"""The colours that a set of encoded pictures has in common, from their headers alone.

A colour set with some grey pictures is a normal set: its grey ones are read as colours.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from PIL import Image

from ffpipe.data.images import FORMATS, STORED_MODE, quiet

GREYS = "greys of a palette"


def mode_of(encoded: Any) -> str:
    """Return the mode in which a picture would be stored by itself; empty where that cannot be told. encoded: its
    bytes."""
    try:
        with quiet(), Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.mode == "P" and image.palette is not None and _is_grey(image.palette.getdata()[1]):
                return GREYS
            return STORED_MODE.get(image.mode, "")
    except Exception:  # whoever decodes it will say what is wrong with it
        return ""


def common(modes: Iterable[str]) -> tuple[str, str]:
    """Return the mode that all pictures are read in, and what a person should know of it. Empty: each as it is."""
    found = set(modes) - {""}
    if found <= {GREYS} or len(found) == 1:
        return "", ""
    mode = "L" if found <= {"L", GREYS} else "RGB"
    if found == {"L", GREYS}:
        return mode, ""
    return mode, f"pictures in {', '.join(sorted(found))} are read as {mode} (training.data.mode)"


def _is_grey(palette: bytes) -> bool:
    """Return whether red, green and blue are the same throughout."""
    return palette[0::3] == palette[1::3] == palette[2::3]

"""The shape of images: as the user says, or as the data have it with channels last.

This module must not know a file format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.data.source import Contents, Part
from ffpipe.system.errors import UserError

# Numbers of channels that pictures have.
CHANNELS = (1, 3, 4)


def channels_first(shape: Sequence[int]) -> bool:
    """Return whether images of a shape are (channels, height, width), as torch has them, and not (height, width,
    channels)."""
    return len(shape) == 3 and shape[0] in CHANNELS and shape[2] not in CHANNELS


def shaped(part: Part, shape: tuple[int, ...]) -> Part:
    """Give the images of a part another shape, row-major; none given: as they are, but with channels last."""
    if not shape:
        return Part(part.name, part.identity, lambda: _channels_last(part.open()))

    def opened() -> Contents:
        contents = part.open()
        if math.prod(shape) != contents.features:
            raise UserError(
                f"{contents.where}: training.data.shape is {shape}, but an image has {contents.features} numbers "
                f"({contents.shape})"
            )
        return replace(contents, shape=shape)

    return Part(part.name, (*part.identity, shape), opened)


def _channels_last(contents: Contents) -> Contents:
    """Move the channels of images behind height and width; a single channel goes."""
    if not channels_first(contents.shape):
        return contents
    first = contents.shape
    channels, *sides = first
    last = (*sides, channels) if channels > 1 else tuple(sides)

    def blocks() -> Iterator[NDArray[Any]]:
        for block in contents.blocks():
            yield np.moveaxis(block.reshape(-1, *first), 1, -1).reshape(len(block), -1)

    kinds = (" x ".join(map(str, shape)) for shape in (first, last))
    said = [contents.found, "images of {}, channels first, are read as {}".format(*kinds)]
    return replace(contents, shape=last, blocks=blocks, found="; ".join(filter(None, said)))

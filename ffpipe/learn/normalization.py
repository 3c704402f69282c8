"""Normalisation of images: a mean subtracted from each channel, and a deviation that it is divided by.

This module must not know what is done to images before and after, nor where means and deviations are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.data.examples import Examples
from ffpipe.system.errors import UserError

# Images that `measured` holds at a time: of CIFAR 3 MB as float64, of 224 x 224 pixels 154 MB.
BLOCK = 128

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Normalization:
    """A mean and a deviation for each channel of an image. Raises UserError where a deviation is not above 0, as that
    of a channel that is the same in all images."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        for channel, deviation in enumerate(self.deviation):
            # Not `<= 0`, which a NaN is not either.
            if not deviation > 0:
                raise UserError(
                    f"training.deviation is {deviation:g} for channel {channel}, which has the same value throughout "
                    "where that is measured: give a deviation above 0 for each channel, or turn training.standardize "
                    "off"
                )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UserError where images of `shape` have more or fewer channels than there are numbers."""
        channels = channels_of(shape)
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if len(values) != channels:
                raise UserError(
                    f"training.{name} has {len(values)} number(s), but an image of shape {shape} has {channels} "
                    "channel(s): give one for each, or none to have them measured"
                )

    def apply(self, images: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return (images - mean) / deviation in memory of its own.

        images: (B, features) of a floating-point dtype, row-major of `shape`, for which `check` has passed. Returns
        the same shape and dtype; both steps are rounded to that dtype, number by number, whatever the threads.
        """
        # A row of means as long as an image is several times as fast as one that torch repeats for each pixel.
        pixels = math.prod(shape) // channels_of(shape)
        mean, deviation = (
            # Not made of a list of numbers, of which torch.jit.trace warns.
            torch.stack([images.new_full((pixels,), number) for number in numbers], 1).flatten()
            for numbers in (self.mean, self.deviation)
        )
        return (images - mean).div_(deviation)


def channels_of(shape: tuple[int, ...]) -> int:
    """Return the number of channels of an image: the last of three axes, or else one."""
    return shape[2] if len(shape) == 3 else 1


def measured(
    examples: Examples, shape: tuple[int, ...], batch: int = BLOCK
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and population deviation of each channel over a whole split.

    examples: at least one image of `shape`. batch: images read at a time, which is a matter of memory alone. All is
    computed in float64, and each sum in an order that is written out here: image is added to image, number by number,
    as they stand in the split, and the sums of a channel's pixels are added exactly (math.fsum). numpy's own sums,
    whose order is up to its version and the processor, have no part in it, so the bits are the same everywhere.
    A channel that is the same throughout has the deviation 0, exactly.
    """
    channels = channels_of(shape)
    pixels = examples.features // channels
    # The mean of differences from one pixel is exactly 0 where all are alike; that of the pixels may be rounded.
    origin = np.tile(examples.images(np.arange(1))[0, :channels].astype(np.float64), pixels)
    mean = origin[:channels] + _averages(examples, channels, batch, lambda images: images - origin)
    middle = np.tile(mean, pixels)
    variance = _averages(examples, channels, batch, lambda images: np.square(images - middle))
    return tuple(mean.tolist()), tuple(map(math.sqrt, variance.tolist()))


def _averages(examples: Examples, channels: int, batch: int, values: Callable[[Doubles], Doubles]) -> Doubles:
    """Average values(images), (n, features) from (n, features), over all pixels of each channel: (channels,)."""
    total = np.zeros(examples.features)
    for first in range(0, len(examples), batch):
        rows = np.arange(first, min(first + batch, len(examples)))
        for row in values(examples.images(rows).astype(np.float64)):
            total += row
    count = len(examples) * (examples.features // channels)
    return np.array([math.fsum(sums) / count for sums in total.reshape(-1, channels).T])

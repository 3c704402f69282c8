"""Augmentation: training images shifted, flipped and pierced, anew at each step.

Every draw is a function of the run's seed and the step, under a purpose of its own for each kind of change, so that
switching one on leaves the draws of the others as they were. Pixels are moved by index, never interpolated. This
module must not know which images make a minibatch, nor how they are normalised between `moved` and `cut`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ffpipe.learn.jitter import jittered
from ffpipe.learn.pixels import blank_outside, gathered
from ffpipe.system.errors import UserError
from ffpipe.system.rng import generator

Padding = Literal["zero", "reflect"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images, each of them off as it stands.

    jitter: pixels by which an image is shifted at most (jitter.py). crop: pixels put around an image before a piece
    of its own size is cut out at a random place, and flip: left and right exchanged in one image of two, both as for
    CIFAR in He et al. (arXiv 1512.03385, section 4.2). padding: the pixels that crop puts around, zeros or the image
    mirrored at its outermost pixels. cutout: side of a square hole whose centre is any pixel of the image, so that
    the hole may reach over the edge (DeVries and Taylor, arXiv 1708.04552).
    """

    crop: int = 0
    padding: Padding = "zero"
    flip: bool = False
    cutout: int = 0
    jitter: int = 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UserError where images of `shape` have no height and width, or are too small for a change."""
        shifts = {"training.jitter": self.jitter, "training.augmentation.crop": self.crop}
        # A shift by a whole side leaves nothing of an image to see, and a mirror has nothing more to show.
        limits = {field: (pixels, 1) for field, pixels in shifts.items()}
        limits["training.augmentation.cutout"] = (self.cutout, 0)
        limits["training.augmentation.flip"] = (int(self.flip), 0)
        for field, (pixels, margin) in limits.items():
            if pixels and len(shape) < 2:
                raise UserError(
                    f"{field} needs images of a height and a width, but an example has the shape {shape}: leave it out"
                )
            if pixels and pixels > (most := min(shape[:2]) - margin):
                raise UserError(
                    f"{field} is {pixels}, but an image has {shape[0]} x {shape[1]} pixels: give at most {most}"
                )

    def __call__(
        self, images: Tensor, shape: tuple[int, ...], seed: int, step: int, fill: float | tuple[float, ...] = 0.0
    ) -> Tensor:
        """Return the images moved and then cut, for a caller that does nothing in between."""
        return self.cut(self.moved(images, shape, seed, step), shape, seed, step, fill)

    def moved(self, images: Tensor, shape: tuple[int, ...], seed: int, step: int) -> Tensor:
        """Return the images with jitter, crop and flip, in this order.

        images: (B, features) of any dtype, row-major of `shape` (height, width) or (height, width, channels).
        Returns (B, features) in memory of its own, a function of seed and step.
        """
        result = jittered(images, shape, self.jitter, seed, step) if self.jitter else images
        if self.crop or self.flip:
            result = self._cropped_and_flipped(result, shape, seed, step)
        return images.clone() if result is images else result

    def cut(
        self, images: Tensor, shape: tuple[int, ...], seed: int, step: int, fill: float | tuple[float, ...] = 0.0
    ) -> Tensor:
        """Return the images with a hole in each: `cutout` pixels square, less where it reaches over an edge.

        images, and what is returned: as in `moved`. fill: value of the pixels in the hole, one or one for each channel.
        A centre c takes rows and columns from c - cutout // 2 on: in an even hole it is right of and below the middle.
        """
        if not self.cutout:
            return images.clone()
        count, (height, width) = len(images), shape[:2]
        centre = generator(seed, "cutout", step).integers(0, (height, width), size=(count, 2))
        top, left = torch.from_numpy(centre - self.cutout // 2).t().unsqueeze(2)
        rows, columns = _within(top, self.cutout, height), _within(left, self.cutout, width)
        hole = (rows[:, :, None] & columns[:, None, :]).unsqueeze(3).to(images.device)
        filling = torch.tensor(fill, dtype=images.dtype, device=images.device)
        return torch.where(hole, filling, images.reshape(count, height, width, -1)).reshape(images.shape)

    def _cropped_and_flipped(self, images: Tensor, shape: tuple[int, ...], seed: int, step: int) -> Tensor:
        """Move each pixel once for both: first whole rows, then the pixels of each row."""
        count, (height, width) = len(images), shape[:2]
        down, right = torch.zeros(2, count, 1, dtype=torch.int64)
        if self.crop:
            drawn = generator(seed, "crop", step).integers(-self.crop, self.crop, size=(count, 2), endpoint=True)
            down, right = torch.from_numpy(drawn).t().unsqueeze(2)
        columns = torch.arange(width).expand(count, width)
        if self.flip:
            flipped = torch.from_numpy(generator(seed, "flip", step).integers(0, 2, size=(count, 1), dtype=bool))
            # First, though images are cropped and then flipped: these are the places that pixels are taken from.
            columns = torch.where(flipped, width - 1 - columns, columns)
        source = _SOURCES[self.padding]
        rows, columns = source(torch.arange(height) + down, height), source(columns + right, width)
        return gathered(images.reshape(count, height, width, -1), rows, columns).reshape(images.shape)


def _within(start: Tensor, length: int, side: int) -> Tensor:
    """Mark the places of a side in start .. start + length - 1: bool (B, side) from int64 (B, 1)."""
    place = torch.arange(side)
    return (place >= start) & (place < start + length)


def _mirrored_outside(place: Tensor, side: int) -> Tensor:
    """Return places along a side, those beyond it mirrored at its first and last place, which are not repeated."""
    # One reflection at each end is enough: `check` lets no shift reach a whole side.
    last = side - 1
    return last - (last - place.abs()).abs()


_SOURCES: Mapping[Padding, Callable[[Tensor, int], Tensor]] = {"zero": blank_outside, "reflect": _mirrored_outside}

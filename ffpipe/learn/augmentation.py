"""Augmentation: training images shifted, flipped and pierced, anew at each step.

Every draw is a function of the run's seed and the step, under a purpose of its own for each kind of change, so that
switching one on leaves the draws of the others as they were. Pixels are moved by index, never interpolated. This
module must not know which images make a minibatch, nor how they are normalised between `moved` and `cut`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ffpipe.config import blocks
from ffpipe.config.schema import Training
from ffpipe.system.errors import UserError
from ffpipe.system.rng import generator


@dataclass(frozen=True, kw_only=True)
class Augmentation(blocks.Augmentation):
    """Random changes of training images, each of them off as it stands.

    jitter: pixels by which an image is shifted at most (Hinton, arXiv 2212.13345, section 3.3). crop and flip: as for
    CIFAR in He et al. (arXiv 1512.03385, section 4.2); padding "reflect" is the image mirrored at its outermost pixels.
    cutout: the hole's centre is any pixel of the image, so that it may reach over the edge (DeVries and Taylor, arXiv
    1708.04552).
    """

    jitter: int = 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UserError where images of `shape` have no height and width, or are too small for a change."""
        # Pixels, and how many fewer than a side has are allowed: a shift by a whole side leaves nothing of an image to
        # see, and a mirror has nothing more to show.
        limits = {
            "training.jitter": (self.jitter, 1),
            "training.augmentation.crop": (self.crop, 1),
            "training.augmentation.cutout": (self.cutout, 0),
            "training.augmentation.flip": (int(self.flip), 0),
        }
        for field, (pixels, margin) in limits.items():
            if pixels and len(shape) < 2:
                raise UserError(
                    f"{field} needs images of a height and a width, but an example has the shape {shape}: leave it out"
                )
            if pixels and pixels > (most := min(shape[:2]) - margin):
                raise UserError(
                    f"{field} is {pixels}, but an image has {shape[0]} x {shape[1]} pixels: give at most {most}"
                )

    def moved(self, images: Tensor, shape: tuple[int, ...], seed: int, step: int) -> Tensor:
        """Return the images with jitter, crop and flip, in this order; the tensor itself where all are off.

        images: (B, features) of any dtype, row-major of `shape` (height, width) or (height, width, channels).
        Returns (B, features), a function of seed and step.
        """
        if self.jitter:
            images = jittered(images, shape, self.jitter, seed, step)
        if not (self.crop or self.flip):
            return images
        # Each pixel is moved once for both.
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
        source = _mirrored_outside if self.padding == "reflect" else _blank_outside
        return _gathered(images, shape, source(torch.arange(height) + down, height), source(columns + right, width))

    def cut(self, images: Tensor, shape: tuple[int, ...], seed: int, step: int) -> Tensor:
        """Return the images with a hole of zeros in each, of `cutout` x `cutout` pixels, less where it reaches over an
        edge; the tensor itself where there are none.

        images, and what is returned: as in `moved`. A centre c takes rows and columns from c - cutout // 2 on: in an
        even hole it is right of and below the middle.
        """
        if not self.cutout:
            return images
        count, (height, width) = len(images), shape[:2]
        centre = generator(seed, "cutout", step).integers(0, (height, width), size=(count, 2))
        top, left = torch.from_numpy(centre - self.cutout // 2).t().unsqueeze(2)
        rows, columns = _within(top, self.cutout, height), _within(left, self.cutout, width)
        hole = (rows[:, :, None] & columns[:, None, :]).unsqueeze(3).to(images.device)
        return images.reshape(count, height, width, -1).masked_fill(hole, 0).reshape(images.shape)


def augmentation_of(training: Training) -> Augmentation:
    """Make the augmentation that a config asks for."""
    return Augmentation(**asdict(training.augmentation), jitter=training.jitter)


def jittered(images: Tensor, shape: tuple[int, ...], pixels: int, seed: int, step: int) -> Tensor:
    """Shift each image by -pixels .. pixels in both directions; what comes in from outside is 0.

    images: (B, features) of `shape` (height, width, ...). Returns (B, features), a function of seed and step.
    """
    height, width = shape[:2]
    drawn = generator(seed, "jitter", step).integers(0, 2 * pixels + 1, size=(2, len(images), 1))
    down, right = torch.from_numpy(drawn) - pixels
    rows = _blank_outside(torch.arange(height) + down, height)
    return _gathered(images, shape, rows, _blank_outside(torch.arange(width) + right, width))


def _gathered(images: Tensor, shape: tuple[int, ...], rows: Tensor, columns: Tensor) -> Tensor:
    """Return images (B, features) of pixels (rows[b, y], columns[b, x]) of each image b.

    rows: int64 (B, height), 0..height, and columns: int64 (B, width), 0..width, the last of which are blank. Rows are
    copied whole, and one index then serves all rows of an image: on one thread of an EPYC that took 0.8 ms for 128
    images of CIFAR, and torch's grid[b, y, x] 2.5 ms.
    """
    count, (height, width) = len(images), shape[:2]
    grid = images.reshape(count, height, width, -1)
    channels = grid.shape[3]
    # One blank line and one blank pixel stand for all places outside, however far a crop may reach.
    lines = pad(grid, (0, 0, 0, 1, 0, 1)).reshape(count * (height + 1), (width + 1) * channels)
    line = torch.arange(count)[:, None] * (height + 1) + rows
    chosen = lines.index_select(0, line.flatten().to(grid.device)).reshape(count, height, -1)
    value = (columns.unsqueeze(2) * channels + torch.arange(channels)).flatten(1).to(grid.device)
    return chosen.gather(2, value.unsqueeze(1).expand(-1, height, -1)).reshape(images.shape)


def _blank_outside(place: Tensor, side: int) -> Tensor:
    """Return places along a side, those beyond it as `side`, which is blank."""
    return place.masked_fill((place < 0) | (place >= side), side)


def _mirrored_outside(place: Tensor, side: int) -> Tensor:
    """Return places along a side, those beyond it mirrored at its first and last place, which are not repeated."""
    # One reflection at each end is enough: `check` lets no shift reach a whole side.
    last = side - 1
    return last - (last - place.abs()).abs()


def _within(start: Tensor, length: int, side: int) -> Tensor:
    """Mark the places of a side in start .. start + length - 1: bool (B, side) from int64 (B, 1)."""
    place = torch.arange(side)
    return (place >= start) & (place < start + length)

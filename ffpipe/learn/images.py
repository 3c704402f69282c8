"""Images as rows of numbers: read from a split, changed as a step has them, with their channels last or first."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.learn.augmentation import augmentation_of
from ffpipe.learn.normalization import Normalization
from ffpipe.learn.precision import PRECISIONS


class Images:
    """Examples as rows of numbers, as they are at a step: jitter, crop and flip, normalisation, cutout."""

    def __init__(self, training: Training, shape: tuple[int, ...]) -> None:
        self._seed, self._shape = training.seed, shape
        self._dtype = PRECISIONS[training.precision].weights
        self._augmentation = augmentation_of(training)
        self._normalization = Normalization(training.mean, training.deviation) if training.standardize else None

    def plain(self, split: Examples, rows: NDArray[np.int64]) -> Tensor:
        """Return images (n, features) as they are evaluated."""
        return self.normalized(torch.from_numpy(split.images(rows)).to(self._dtype))

    def normalized(self, images: Tensor) -> Tensor:
        """Normalise images (n, features) by mean and deviation, where the config wants that."""
        return images if self._normalization is None else self._normalization.apply(images, self._shape)

    def at_step(self, split: Examples, rows: NDArray[np.int64], step: int) -> Tensor:
        """Return images (n, features) as minibatch `step` has them."""
        images = torch.from_numpy(split.images(rows)).to(self._dtype)
        images = self._augmentation.moved(images, self._shape, self._seed, step)
        # Holes last, so that they have the mean, which is 0.
        return self._augmentation.cut(self.normalized(images), self._shape, self._seed, step)


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (C, H, W) of an image that is stored as (height, width) or (height, width, channels)."""
    return (1, *shape) if len(shape) == 2 else (shape[-1], *shape[:-1])


def channels_first(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Move the channels of images (n, features) of `shape`, channels last, to the front; leave others as they are."""
    if len(shape) != 3:
        return images
    count = images.shape[0]  # len is a constant to torch.jit.trace
    return images.view(count, -1, shape[-1]).transpose(1, 2).reshape(count, -1)

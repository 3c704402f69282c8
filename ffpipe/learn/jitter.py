"""Jitter: images shifted by a few pixels, anew at each step (Hinton, arXiv 2212.13345, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ffpipe.learn.pixels import blank_outside, gathered
from ffpipe.system.rng import generator


def jittered(images: Tensor, shape: tuple[int, ...], pixels: int, seed: int, step: int) -> Tensor:
    """Shift each image by -pixels .. pixels in both directions; what comes in from outside is 0.

    images: (B, features) of `shape` (height, width, ...). Returns (B, features), a function of seed and step.
    """
    count, (height, width) = len(images), shape[:2]
    drawn = generator(seed, "jitter", step).integers(0, 2 * pixels + 1, size=(2, count, 1))
    down, right = torch.from_numpy(drawn) - pixels
    rows = blank_outside(torch.arange(height) + down, height)
    columns = blank_outside(torch.arange(width) + right, width)
    return gathered(images.reshape(count, height, width, -1), rows, columns).reshape(images.shape)

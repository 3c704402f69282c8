"""Jitter: images shifted by a few pixels, anew at each step (Hinton, arXiv 2212.13345, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ffpipe.system.rng import generator


def jittered(images: Tensor, shape: tuple[int, ...], pixels: int, seed: int, step: int) -> Tensor:
    """Shift each image by -pixels .. pixels in both directions; what comes in from outside is 0.

    images: (B, features) of `shape` (height, width, ...). Returns (B, features), a function of seed and step.
    """
    count, (height, width) = len(images), shape[:2]
    shift = torch.from_numpy(generator(seed, "jitter", step).integers(0, 2 * pixels + 1, size=(2, count, 1)))
    grid = pad(images.reshape(count, height, width, -1), (0, 0, pixels, pixels, pixels, pixels))
    down, right = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
    moved = grid[torch.arange(count)[:, None, None], down[:, :, None], right[:, None, :]]
    return moved.reshape(images.shape)

"""Hybrid images: two digits in one, alike in the small and unlike in the large (Hinton, arXiv 2212.13345, 3.2).

A mask of large patches comes from random bits that are blurred again and again with [1/4, 1/2, 1/4] in both
directions and cut at one half; the hybrid is one image where the mask is set and another one elsewhere.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from ffpipe.learn.products import matmul
from ffpipe.learn.thread_count import one_thread

# The paper says "repeatedly"; ten blurs give patches about a third of the width of an MNIST digit.
BLURS = 10


def hybrid_images(images: Tensor, shape: tuple[int, ...], chance: np.random.Generator) -> Tensor:
    """Mix each of images (B, features) of `shape` (height, width, ...) with another one of the minibatch.

    Returns (B, features). A minibatch of one has no other: it is mixed with itself.
    """
    count = len(images)
    # The same for all: each image is then the other one of exactly one, and never of itself.
    away = int(chance.integers(1, count)) if count > 1 else 0
    mask = random_masks(count, shape[:2], chance)
    pixels = images.reshape(count, *shape[:2], -1)
    return torch.where(mask.unsqueeze(3), pixels, pixels.roll(away, 0)).reshape(images.shape)


def random_masks(count: int, size: tuple[int, ...], chance: np.random.Generator) -> Tensor:
    """Draw masks (count, height, width), bool."""
    height, width = size
    # Bits of -1 and 1 rather than 0 and 1: what lies beyond the edge counts as neither.
    bits = chance.integers(0, 2, size=(count, height, width), dtype=np.int8)
    field = torch.from_numpy(bits).float().mul_(2.0).sub_(1.0)
    return matmul(matmul(blur_matrix(height), field), blur_matrix(width)) > 0.0


@cache
def blur_matrix(size: int) -> Tensor:
    """Return a matrix (size, size), symmetric: BLURS blurs of a line of pixels as one product."""
    once = torch.diag(torch.full((size,), 0.5))
    beside = torch.diag(torch.full((size - 1,), 0.25), 1)
    # It is kept for as long as the process lives, so it must not depend on the threads of its first use.
    with one_thread():
        blurred: Tensor = torch.linalg.matrix_power(once + beside + beside.t(), BLURS)
    return blurred

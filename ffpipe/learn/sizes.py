"""The size of weights and of activations, for the log of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ffpipe.learn.thread_count import one_thread


def root_mean_square(tensors: Iterable[Tensor]) -> float | None:
    """Return the root of the mean square of all numbers of some tensors; None where none is floating. On one thread: a
    run that goes on elsewhere has the same rows of metrics, to the bit."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return None
    with one_thread():
        squares = sum(float(torch.linalg.vector_norm(_single(tensor))) ** 2 for tensor in floating)
    return math.sqrt(squares / sum(tensor.numel() for tensor in floating))


def _single(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 at least."""
    # Not precision.wide: torch promotes no float8, which weights of a user's may be.
    return tensor.float() if tensor.itemsize < torch.float32.itemsize else tensor


def matrices(weights: Iterable[Tensor]) -> list[Tensor]:
    """Pick the matrices and kernels of some weights, and leave out biases, gains and running statistics."""
    return [weight for weight in weights if weight.dim() > 1]

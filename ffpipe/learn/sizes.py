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
        # In float32 at least. Not by precision.wide: torch promotes no float8, which weights of a user's may be.
        wide = (tensor.float() if tensor.itemsize < torch.float32.itemsize else tensor for tensor in floating)
        squares = sum(float(torch.linalg.vector_norm(tensor)) ** 2 for tensor in wide)
    return math.sqrt(squares / sum(tensor.numel() for tensor in floating))

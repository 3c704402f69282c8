"""Functions of torch whose bits may depend on the number of threads, held to those that they have on one.

torch shares out what has 32,768 numbers or more. A single sum is cut into a part for each thread. Each of several sums
is made by one thread, but the last few columns may be added up in another order where they are alone in a share.
Results that are computed number by number are as a rule the same wherever a share ends; but the sigmoid and the
softplus of the last few of a share are rounded in another way, and of exp, log and sqrt the library that computes them
does not promise it.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ffpipe.learn.thread_count import one_thread
from ffpipe.learn.trials import Function, is_recorded, steady

# at::internal::GRAIN_SIZE: torch cuts nothing smaller for its threads.
GRAIN = 32_768


def total(values: Tensor, dim: int | None = None) -> Tensor:
    """Add all values up, (), or those along `dim`."""
    return _summed(torch.sum, values, dim)


def mean(values: Tensor, dim: int | None = None) -> Tensor:
    """Average all values, (), or those along `dim`."""
    return _summed(torch.mean, values, dim)


def sum_of_squares(rows: Tensor) -> Tensor:
    """Add up the squares of each row of (n, width): (n,)."""
    return _summed(_sum_of_squares, rows, 1)


def sigmoid(values: Tensor) -> Tensor:
    """Give the sigmoid of each value."""
    return _by_shares(torch.sigmoid, values)


def softplus(values: Tensor) -> Tensor:
    """Give the softplus of each value."""
    return _by_shares(torch.nn.functional.softplus, values)


def log_softmax(rows: Tensor) -> Tensor:
    """Give the logarithms of the softmax of each row of (n, width), of which torch shares out far fewer numbers."""
    with one_thread():
        return torch.log_softmax(rows, dim=1)


def exp(values: Tensor) -> Tensor:
    """Give the exponential of each value."""
    return _by_shares(torch.exp, values)


def sqrt(values: Tensor) -> Tensor:
    """Give the square root of each value."""
    return _by_shares(torch.sqrt, values)


def _sum_of_squares(rows: Tensor, dim: int) -> Tensor:
    squares: Tensor = torch.linalg.vecdot(rows, rows, dim=dim)
    return squares


def _summed(function: Function, values: Tensor, dim: int | None) -> Tensor:
    """Return function(values, dim), which is made of sums."""
    if dim is not None and _is_large(values):
        return steady(function, (values,), dim, terms=values.shape[dim])
    return _by_shares(function, values, dim)


def _by_shares(function: Function, values: Tensor, *options: int | None) -> Tensor:
    """Return function(values, *options), made by one thread where torch would cut the values into shares."""
    with one_thread() if _is_large(values) else nullcontext():
        return function(values, *options)


def _is_large(values: Tensor) -> bool:
    """Return whether torch cuts the values for its threads. A recorded program must not fix their number."""
    return not is_recorded() and values.numel() >= GRAIN

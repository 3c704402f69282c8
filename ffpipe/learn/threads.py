"""Functions of torch whose bits may depend on the number of threads, held to one where they do.

torch shares out what has 32,768 numbers or more. Where it makes several sums of them, each is made by one thread; a
single sum is cut into a part for each. What is computed number by number is as a rule the same wherever a share ends,
but the sigmoid and the softplus of the last few of a share are rounded in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

# at::internal::GRAIN_SIZE: torch cuts nothing smaller for its threads.
GRAIN = 32_768


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed in it is computed on one thread of the CPU."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def total(values: Tensor, dim: int | None = None) -> Tensor:
    """The sum of all values, (), or of those along `dim`."""
    with _for_sum(values, dim):
        return values.sum() if dim is None else values.sum(dim)


def mean(values: Tensor, dim: int | None = None) -> Tensor:
    """The mean of all values, (), or of those along `dim`."""
    with _for_sum(values, dim):
        return values.mean() if dim is None else values.mean(dim)


def sum_of_squares(rows: Tensor) -> Tensor:
    """Of each row of (n, width): (n,)."""
    with _for_sum(rows, 1):
        squares: Tensor = torch.linalg.vecdot(rows, rows)
        return squares


def sigmoid(values: Tensor) -> Tensor:
    """Of each value."""
    with _for_shares(values):
        return torch.sigmoid(values)


def softplus(values: Tensor) -> Tensor:
    """Of each value."""
    with _for_shares(values):
        return torch.nn.functional.softplus(values)


def _for_sum(values: Tensor, dim: int | None) -> AbstractContextManager[None]:
    single = dim is None or values.numel() == values.shape[dim]
    return _for_shares(values) if single else nullcontext()


def _for_shares(values: Tensor) -> AbstractContextManager[None]:
    return one_thread() if values.numel() >= GRAIN else nullcontext()


@contextmanager
def threads_of_block(count: int | None) -> Iterator[None]:
    """Compute on so many threads of the CPU what depends on their number; None: on as many as there are."""
    threads = torch.get_num_threads()
    if count is None or count == threads:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""Sums that have the same bits on any number of threads.

Where torch makes several sums of a tensor, its threads share these, and each is made by one. A single sum of 32,768
numbers or more it cuts into a part for each thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def total(values: Tensor) -> Tensor:
    """The sum of all values, ()."""
    if values.numel() < GRAIN:
        return values.sum()
    with one_thread():
        return values.sum()


def mean(values: Tensor) -> Tensor:
    """The mean of all values, ()."""
    if values.numel() < GRAIN:
        return values.mean()
    with one_thread():
        return values.mean()


def row_totals(values: Tensor) -> Tensor:
    """The sum of each row of values (n, width), (n,)."""
    return values.sum(1) if len(values) != 1 else total(values).unsqueeze(0)

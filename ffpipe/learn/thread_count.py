"""The number of threads of the CPU on which something is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


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


def one_thread() -> AbstractContextManager[None]:
    """Compute on one thread of the CPU."""
    return threads_of_block(1)

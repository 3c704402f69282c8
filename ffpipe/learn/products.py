"""Matrix products that have the same bits on any number of threads.

The sums of a product are cut as a library finds best, and that may depend on how many threads there are: on Intel's
processors it does in MKL, unless that is told not to (`environment.py`), and in oneDNN's bfloat16 where there is AMX.
What depends on threads is left to one. (What else may depend on them is in threads.py.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ffpipe.learn.threads import one_thread

# Rows, features and width of products that came out differently on two threads of a Xeon; the last of
# these is of a gradient. Behind them, one with sums as long as those of a gradient of a full batch.
PROBES = ((50, 784, 10), (50, 784, 1000), (150, 2000, 2000), (64, 50, 500), (64, 30_000, 32))


def mm(rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """rows weight: (n, k) by (k, m), into `out` (n, m) where there is one."""
    with _steady(rows):
        return torch.mm(rows, weight, out=out)


def addmm(bias: Tensor, rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """bias + rows weight: (m,), (n, k) and (k, m), into `out` (n, m) where there is one."""
    with _steady(rows):
        return torch.addmm(bias, rows, weight, out=out)


def accumulate(total: Tensor, rows: Tensor, weight: Tensor, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """total <- beta total + alpha rows weight: (n, m), (n, k) and (k, m)."""
    with _steady(rows):
        return total.addmm_(rows, weight, beta=beta, alpha=alpha)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """left right, of matrices or of batches of them, as torch.matmul has it."""
    with _steady(left):
        return torch.matmul(left, right)


@contextmanager
def _steady(rows: Tensor) -> Iterator[None]:
    """One thread, where more would make other bits."""
    threads = torch.get_num_threads()
    if threads == 1 or rows.device.type != "cpu" or not depends_on_threads(rows.dtype, threads):
        yield
        return
    with one_thread():
        yield


@functools.cache
def depends_on_threads(dtype: torch.dtype, threads: int) -> bool:
    """Whether products on the CPU may have other bits on so many threads, which this one has, than on one."""
    if dtype == torch.bfloat16 and torch.cpu.get_capabilities().get("amx_bf16"):
        return True
    return any(not torch.equal(*_on_one_and_all(dtype, *sizes)) for sizes in PROBES)


def _on_one_and_all(dtype: torch.dtype, n: int, k: int, m: int) -> tuple[Tensor, Tensor]:
    """The same accumulated product on one thread and on all, from rows as a layer has them and as a gradient does."""
    chance = torch.Generator().manual_seed(1)
    rows, weight, total = (torch.randn(*of, generator=chance).to(dtype) for of in ((n, k), (k, m), (n, m)))
    across = rows.t().contiguous().t()

    def made() -> Tensor:
        return torch.cat([torch.mm(rows, weight), torch.addmm(total, across, weight, beta=0.9, alpha=0.1)])

    with one_thread():
        one = made()
    return one, made()

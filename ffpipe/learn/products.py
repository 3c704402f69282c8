"""Matrix products that have the same bits on any number of threads.

The sums of a product are cut as a library finds best, and that may depend on how many threads there are: in MKL for
narrow and odd shapes, on Intel's processors for many more unless it is told not to (`environment.py`), and in oneDNN's
bfloat16 where there is AMX. Each shape is tried (trials.py), and what depends on threads is left to one. (What else may
depend on them is in threads.py.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ffpipe.learn.thread_count import one_thread
from ffpipe.learn.trials import Function, is_recorded, steady

# Multiplications of a product that one thread makes in about as little time as two.
SMALL = 1 << 18
# Small enough not to hide the rounding of sums that are near 0, and a power of 2.
FAINT = 2.0**-20


def mm(rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply rows (n, k) by a weight (k, m), into `out` (n, m) where there is one."""
    return _made(_mm, (rows, weight) if out is None else (rows, weight, out))


def addmm(bias: Tensor, rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Add a bias (m,) to rows (n, k) by a weight (k, m), into `out` (n, m) where there is one."""
    return _made(_addmm, (rows, weight, bias) if out is None else (rows, weight, bias, out))


def accumulate(total: Tensor, rows: Tensor, weight: Tensor, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Make of a total (n, m) beta total + alpha rows weight, in place; rows: (n, k), weight: (k, m)."""
    return _made(_accumulate, (rows, weight, total), beta, alpha)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices or batches of them, as torch.matmul does."""
    return _made(torch.matmul, (left, right))


# Results of trials are kept by these functions: one that is made anew for each call would be tried each time.
def _mm(rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mm(rows, weight, out=out)


def _addmm(rows: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.addmm(bias, rows, weight, out=out)


def _accumulate(rows: Tensor, weight: Tensor, total: Tensor, beta: float, alpha: float) -> Tensor:
    return total.addmm_(rows, weight, beta=beta, alpha=alpha)


def _made(product: Function, operands: Sequence[Tensor], *factors: float) -> Tensor:
    """Make a product, which is of the first two operands."""
    left, right = operands[:2]
    if is_recorded() or not left.is_cpu:
        return product(*operands, *factors)
    work = max(left.numel() * right.shape[-1], right.numel() * left.shape[-2])  # either may be a batch
    if work < SMALL or (left.dtype == torch.bfloat16 and _has_amx()):
        with one_thread():
            return product(*operands, *factors)
    return steady(product, operands, *factors, terms=left.shape[-1], adapt=_cancel)


@cache
def _has_amx() -> bool:
    """Tell whether oneDNN's products depend on threads for a few sizes, so seldom that no trial need show it."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _cancel(operands: Sequence[Tensor]) -> None:
    """Make the terms of each sum cancel, so that nothing is left but how they were rounded. bfloat16 shows it in no
    other way: its sums are made in float32, and most differences are lost where they are rounded."""
    left, right, *others = map(_once, operands)
    half = left.shape[-1] // 2
    left[..., half : 2 * half] = -left[..., :half]
    right[..., half : 2 * half, :] = right[..., :half, :]
    # The term that is left over of an odd number has no other that it could cancel with.
    right[..., 2 * half :, :] *= FAINT
    for other in others:
        other *= FAINT


def _once(operand: Tensor) -> Tensor:
    """Return a view of an operand in which no number is repeated, as in an expanded one: torch writes into no other."""
    sizes = [size if stride else 1 for size, stride in zip(operand.shape, operand.stride(), strict=True)]
    return operand.as_strided(sizes, operand.stride())

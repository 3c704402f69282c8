"""Numbers too small for their format, which the CPU computes with ten times as slowly as with others.

A running mean of what has become zero (the gradient of a unit that never fires, or of a pixel that is never lit)
shrinks by its factor with every update, and after some 800 updates at 0.9 it is denormal; rounding then keeps it so for
ever. Only means of gradients and of activities are settled: of squares and sums, optimisers expect what they left.
torch.set_flush_denormal would make zeros of them in the thread that calls it, and in those alone that it
starts later: weights would depend on threads. So they become zeros here, before they are denormal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# Updates between two calls of `flush_denormals`: 0.9 ** 32 divides by 29, less than MARGIN. If means shrink faster, or
# a step has more updates, some are denormal for a few updates on their way to zero.
EVERY = 32
MARGIN = 64
# The names that optimisers of torch have for their running means of gradients.
MEANS = ("exp_avg", "momentum_buffer")


def is_due(step: int, updates: int = 1) -> bool:
    """Return whether `flush_denormals` is due after this step. It depends on the step alone, so that a run that goes on
    has the same bits.

    step: of the run, from 0; updates: in each step.
    """
    return (step + 1) % max(1, EVERY // updates) == 0


def flush_denormals(tensors: Iterable[Tensor]) -> None:
    """Make zero, in place, what is less than 64 times the least normal number (7.5e-37 in float32) in size."""
    for tensor in tensors:
        if tensor.is_floating_point():
            # NaN and infinity stay what they are: a run that diverges is to show it.
            torch.hardshrink(tensor, MARGIN * torch.finfo(tensor.dtype).tiny, out=tensor)


def flush_optimizer(states: Iterable[Mapping[str, Any]]) -> None:
    """Apply `flush_denormals` to the running means of gradients that an optimiser of torch keeps of each parameter."""
    flush_denormals(state[name] for state in states for name in MEANS if isinstance(state.get(name), Tensor))

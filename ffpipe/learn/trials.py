"""Trials that show whether a function of tensors has the same bits on all threads of the CPU as on one.

torch, MKL and oneDNN cut a sum by the sizes of the operands, by their strides, by where they begin in memory, and by
the number of threads, by rules that no documentation gives. So a function is tried on random operands of the very form
that it is to be called with, and is left to one thread where its bits differ. The results of trials of a form are kept
for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from xxhash import xxh3_128_digest

from ffpipe.learn.thread_count import one_thread, threads_of_block

# Numbers in the operands of a trial; what is larger is left to one thread untried (in float32, beyond 256 MiB).
LARGEST = 1 << 26
# All that follows was found with MKL 2024.2 on an AMD EPYC of the third generation.
# A result can depend on where its operands begin in a line of the cache (MKL, of the result's own place), and on
# nothing else of their address: torch's own memory begins at a line, a row of a minibatch anywhere.
LINE = 64
# If each row of a result begins at a vector, its bits depend on threads as a whole or not at all, which two trials
# show.
VECTOR, AS_A_WHOLE = 16, 2
# Elsewhere it may be a single number, at the edge of two shares. A trial in which its sum is rounded to the same in
# spite of another order shows nothing: of sums of SHORT terms, every third; of LONG ones, few. (Of yet shorter ones,
# most: they are left to one thread untried.)
SHORT, TRIALS_OF_SHORT = 64, 16
LONG, TRIALS_OF_LONG = 150, 6
# Random numbers, repeated: their number is a prime, so that no two rows of a matrix are alike.
RANDOM = 65_537

Function = Callable[..., Tensor]
# Changes random operands in place.
Adapt = Callable[[Sequence[Tensor]], None]

_same: dict[Hashable, bool] = {}


def is_recorded() -> bool:
    """Tell whether torch.export, torch.compile or torch.jit.trace follows what is computed. Then there is nothing to be
    tried on tensors, which may lie nowhere, and no decision may hang on the number of rows."""
    return torch.compiler.is_compiling() or is_traced()


def is_traced() -> bool:
    """Tell whether torch.jit.trace follows what is computed, to which sizes are tensors."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]  # torch has no hints for it


def steady(
    function: Function, operands: Sequence[Tensor], *options: float | None, terms: int, adapt: Adapt | None = None
) -> Tensor:
    """Return function(*operands, *options) with the bits that it has on one thread, from all threads where they agree.

    function: a module's own, by which results of trials are kept; it may write into operands. operands: of one dtype.
    terms: of each of the sums that it makes. adapt: makes operands of every second trial show more than random ones do.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not operands[0].is_cpu:
        return function(*operands, *options)
    forms = [(operand.shape, operand.stride(), operand.data_ptr() % LINE) for operand in operands]
    key = (function, options, threads, operands[0].dtype, *forms)
    same = _same.get(key)
    if same is None:
        same = _same[key] = _has_same_bits(function, operands, options, terms, adapt)
    if same:
        return function(*operands, *options)
    with one_thread():
        return function(*operands, *options)


@torch.no_grad()
def _has_same_bits(
    function: Function, operands: Sequence[Tensor], options: Sequence[float | None], terms: int, adapt: Adapt | None
) -> bool:
    """Tell whether random operands have the same results on one thread and on all that there are."""
    if sum(map(_span, operands)) > LARGEST:
        return False

    def result(trial: int, count: int) -> Tensor:
        with one_thread():
            chance = torch.Generator().manual_seed(trial)
            # The same numbers for both counts of threads, made anew as a function may write into its operands.
            tried = [_random_like(operand, chance) for operand in operands]
            if adapt is not None and trial % 2 == 0:
                adapt(tried)
        with threads_of_block(count):
            return function(*tried, *options)

    threads = torch.get_num_threads()
    trial, trials = 0, 1
    while trial < trials:
        one = result(trial, 1)
        trials, digest = _trials(one, terms), _digest(one)
        del one  # no two results are in memory at once
        if not trials or _digest(result(trial, threads)) != digest:
            return False
        trial += 1
    return True


def _trials(result: Tensor, terms: int) -> int:
    """Give the number of trials that show whether such a result depends on threads; 0: none does."""
    if _begins_at_vectors(result):
        return AS_A_WHOLE
    if terms < SHORT:
        return 0
    return TRIALS_OF_SHORT if terms < LONG else TRIALS_OF_LONG


def _begins_at_vectors(result: Tensor) -> bool:
    """Tell whether a result is a matrix, or several, each row of which begins at a multiple of VECTOR bytes."""
    begins = (result.data_ptr(), *(stride * result.element_size() for stride in result.stride()[:-1]))
    return result.dim() > 1 and all(begin % VECTOR == 0 for begin in begins)


def _span(operand: Tensor) -> int:
    """Count the numbers from the first of a tensor to its last, with what lies between them in memory."""
    if not operand.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(operand.shape, operand.stride(), strict=True))


def _random_like(operand: Tensor, chance: torch.Generator) -> Tensor:
    """Make random numbers of the same sizes, strides and dtype, which begin as far from the start of a line."""
    span, item = _span(operand), operand.element_size()
    memory = torch.empty(span + LINE // item, dtype=operand.dtype)
    first = (operand.data_ptr() - memory.data_ptr()) % LINE // item
    numbers = torch.randn(min(span, RANDOM), generator=chance, dtype=operand.dtype)
    for part in memory[first : first + span].split(RANDOM):
        part.copy_(numbers[: len(part)])
    return memory.as_strided(operand.shape, operand.stride(), first)


def _digest(result: Tensor) -> bytes:
    """Make a digest of the bits."""
    # As bytes: NumPy has no bfloat16, and numbers that are equal may have other bits.
    return xxh3_128_digest(result.contiguous().reshape(-1).view(torch.uint8).numpy().data)

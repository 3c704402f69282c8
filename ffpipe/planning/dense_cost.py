"""The memory of a step of a dense layer, by formulas of what dense.py and updates.py have in memory at once.

All other blocks are looked at while they make a step without memory, for which torch takes 100 MB of a process.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.dense import FFDense
from ffpipe.learn.optim import NamedOptimizer
from ffpipe.learn.peak_memory import PeakMemory
from ffpipe.learn.spec import RowLayout
from ffpipe.learn.updates import MixedAveraging

# Bytes of what NumPy draws for dropout, and what it is compared to.
DRAWN = np.dtype(np.uint16).itemsize + np.dtype(np.bool_).itemsize
# Numbers of a row that a step makes: the sum of its squares, its factors, its goodness.
SUMS = 4


class StepCost(NamedTuple):
    """Memory and operations of a step of a block. bytes: what comes and goes, at most at once, beside its state and its
    rows. flops: floating-point operations. after: those of them after its result may leave."""

    bytes: int
    flops: int
    after: int = 0


def dense_step(block: FFDense, layout: RowLayout, rows_of_example: int = 0) -> StepCost:
    """Count buffers for all rows and for the update; beside them sums and factors of rows, and at most one of what
    dropout draws, what it is rounded to, what the update makes, and what the rows of one example take in an
    evaluation, where they are more than those of a minibatch."""
    training, weight, products = block.config, block.weight.itemsize, block.outputs.dtype.itemsize
    rows, learning, mixed = layout.rows, layout.learning_rows, products != weight
    together = training.phases != "apart"
    # Apart, an update on the positive rows comes first, then one on the negative rows, with which the rest passes.
    at_once, updated = (rows, learning) if together else (rows - layout.batch, layout.batch)
    buffers, passing = _update_bytes(block, updated)
    # By their names in dense.py: "activity" and "squares", and "product" where products have another format.
    each = at_once * (2 * weight + mixed * products)
    if training.dropout:
        each += rows * weight
        passing = max(passing, block.width * rows * max(DRAWN, mixed * products))
    if rows_of_example > rows:
        # Activities, their squares or what is handed on, rounded or not, and what was handed on before.
        fresh = 2 * weight + products + mixed * products
        passing = max(passing, block.width * rows_of_example * fresh)
    # Later local steps have their outputs elsewhere, since those of the first are handed on.
    if training.local_steps > 1 and training.hand_on == "before":
        each += rows * products
    size = block.width * each + SUMS * rows * weight + buffers + passing
    # The first local step hands on: what follows is its last gradient, and the other local steps.
    after = updated + (training.local_steps - 1) * (rows + learning) if training.hand_on == "before" else 0
    return StepCost(size, 2 * products_of(training, layout) * block.weight.numel(), 2 * after * block.weight.numel())


def products_of(training: Training, layout: RowLayout) -> int:
    """Count the products of a row with the weights that a step makes: forward, and with a gradient."""
    rows, learning = layout.rows, layout.learning_rows
    return training.local_steps * (rows + learning) + rows * (training.hand_on == "after")


def _update_bytes(block: FFDense, rows: int) -> tuple[int, int]:
    """Return the bytes of the buffers of an update on so many rows, and of what comes and goes beside them at most."""
    (fan_in, width), weight, products = block.weight.shape, block.weight.itemsize, block.outputs.dtype.itemsize
    mixed, settings = products != weight, block.config.optimizer
    if settings.kind == "averaging":
        at_once = min(MixedAveraging.BLOCK, fan_in)
        buffers = width * (rows * products + at_once * (weight + products)) if mixed else 0
        return buffers, width * weight  # the gradient of the bias
    made = temporaries(settings, block.weight.dtype) * fan_in * width * weight
    return fan_in * width * (weight + mixed * products), max(mixed * rows * width * products, made)


def temporaries(settings: Optimizer, dtype: torch.dtype) -> int:
    """Count the tensors of the size of a weight that a step of an optimiser of torch makes at most, on a small one."""
    weight = torch.nn.Parameter(torch.zeros(64, 64, dtype=dtype))
    optimizer = NamedOptimizer({"weight": weight}, settings)
    for _ in range(2):  # the first step makes the state too
        weight.grad = torch.zeros_like(weight)
        with PeakMemory() as memory:
            optimizer.step(1.0)
    made: int = round(memory.peak / weight.nbytes)
    return made

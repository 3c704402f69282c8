"""The training examples of the minibatch of a step: a function of the seed and the step, and of nothing else.

It must not know the examples, only how many there are.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ffpipe.system import rng
from ffpipe.system.errors import UserError

# With hard negatives the source looks ahead of the step by training.negative_lag, so two epochs are in use at once.
_EPOCHS_KEPT = 2


class Sampler:
    """Every epoch is a fresh shuffle cut into minibatches; what is left over at its end is left out.

    steps_per_epoch: floor(examples / batch_size).
    """

    def __init__(
        self, examples: int, batch_size: int, seed: int, purpose: str = "order", *, shuffles: bool = True
    ) -> None:
        """purpose: of the randomness (rng.py). shuffles: or else all epochs have the examples in the order in which
        they come. Raises UserError where there are too few examples for one minibatch."""
        if batch_size > examples:
            raise UserError(
                f"training.batch_size is {batch_size}, but there are {examples} training examples: give 1 to "
                f"{examples}, as --training.batch-size {examples}"
            )
        self.steps_per_epoch = examples // batch_size
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._purpose = purpose
        self._shuffles = shuffles
        self._order = lru_cache(_EPOCHS_KEPT)(self._made)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the training examples of minibatch `step` (from 0), int64 (batch_size,), without repeats."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self._batch_size
        # A copy: a caller that writes into its rows would change this epoch's order for all steps to come.
        return self._order(epoch)[start : start + self._batch_size].copy()

    def _made(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffles:
            return np.arange(self._examples)
        return rng.generator(self._seed, self._purpose, epoch).permutation(self._examples)

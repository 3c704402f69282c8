"""Shapes of what travels: one row of a stream, and how the rows of a minibatch are stacked.

Blocks say what they take and make, the feeder says which rows there are; nobody else works a shape out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

POSITIVE, NEGATIVE, NEUTRAL, EXAMPLES = "positive", "negative", "neutral", "examples"
# The rows of a step that are of one role alone, which turns.py gives.
IN_TURNS = ("positive or negative",)
# The roles that blocks can learn from: Forward-Forward's pairs, or the examples as they are.
PAIRS = (POSITIVE, NEGATIVE)
PLAIN = (EXAMPLES,)


@dataclass(frozen=True)
class RowSpec:
    """One row on an edge of the network: its shape without the batch dimension, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape)) or 'scalar'} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class RowLayout:
    """The order of a minibatch's rows along its first dimension; the same for a whole run, and never sent.

    batch: rows of each role. learning: the roles that blocks learn from, which come first. passing: those that go
    through the blocks for the read-out alone.
    """

    batch: int
    learning: tuple[str, ...]
    passing: tuple[str, ...] = ()

    def __getitem__(self, role: str) -> slice:
        """Return the rows of one role. Raises ValueError for a role that is not there."""
        place = (*self.learning, *self.passing).index(role)
        return slice(place * self.batch, (place + 1) * self.batch)

    @property
    def learning_rows(self) -> int:
        return len(self.learning) * self.batch

    @property
    def rows(self) -> int:
        return self.learning_rows + len(self.passing) * self.batch

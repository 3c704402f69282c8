"""Shards: the fixed parts of a minibatch, and the one tree along which what is made of each is added up.

    shard 0 ─┬─ sum ─┐
    shard 1 ─┘       ├─ sum over the minibatch      a process adds up its own shards, which are neighbours; the levels
    shard 2 ─┬─ sum ─┘                              above are for an exchange between processes, in the same order
    shard 3 ─┘

Products of a shard have one shape and additions one order, whoever makes them. How sums travel is not known here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from ffpipe.learn.spec import RowLayout

# Adds two numbers or tensors; may change the first one.
Add = Callable[[Tensor, Tensor], Tensor]
# Makes of the sums over the shards of this process those over all shards. The name is that of the sums.
Exchange = Callable[[str, list[Tensor]], list[Tensor]]


class Shard(NamedTuple):
    """The rows of one shard of a minibatch, as a block gets them: those of a smaller minibatch. number: of the shard in
    the minibatch. x, out, kept: as for `Block.learn`. labels: of its examples, or None."""

    number: int
    x: Tensor
    labels: Tensor | None
    out: Tensor
    kept: Sequence[Tensor] = ()


def fold(parts: Iterable[Sequence[Tensor]], add: Add = operator.add) -> list[Tensor]:
    """Add up lists of tensors place by place along a balanced tree: neighbours first, then their sums. parts: 1, 2, 4,
    8, ... of them; they are taken one after the other, and no more sums are held than the tree is high."""
    waiting: list[list[Tensor]] = []
    for number, part in enumerate(parts, 1):
        waiting.append(list(part))
        while number % 2 == 0:
            right, left = waiting.pop(), waiting.pop()
            waiting.append([add(one, other) for one, other in zip(left, right, strict=True)])
            number //= 2
    (whole,) = waiting
    return whole


def alone(name: str, sums: list[Tensor]) -> list[Tensor]:
    """Return the sums of a process that has all shards."""
    return sums


class Shards:
    """The shards of every minibatch that this process computes: `own`, of `count`. exchange: with the others."""

    def __init__(self, count: int, own: range, exchange: Exchange = alone) -> None:
        self.count, self.own, self.exchange = count, own, exchange

    def sum(self, name: str, parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
        """Add up over all shards what this process has of its own, a list of tensors for each; they are used up."""
        return self.exchange(name, fold(parts, Tensor.add_))

    def whole(self, layout: RowLayout) -> int:
        """Count the examples of a whole minibatch. layout: of a shard."""
        return layout.batch * self.count

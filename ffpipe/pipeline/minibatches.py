"""One minibatch in a block or in the read-out: as a whole, or shard by shard.

Both make the same update: `Cut` computes the shards of this process and adds up those of all. The stage knows which
item of the schedule the rows belong to, and where they come from. Whatever else lies beside them, rows begin at a line
of the cache when a block or the read-out gets them (rows.at_line).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.objectives import Learned
from ffpipe.learn.readout import Head, HeadStep
from ffpipe.learn.rows import at_line
from ffpipe.learn.shards import Shard, Shards
from ffpipe.learn.sizes import root_mean_square
from ffpipe.telemetry.metrics import LastStep

ALL = slice(None)


class Rows(NamedTuple):
    """A block's part of one minibatch: rows x (n, ...), labels of its examples or with negatives None, where its own
    rows go, kept outputs."""

    x: Tensor
    labels: Tensor | None
    out: Tensor
    kept: list[Tensor]

    def part(self, some: slice) -> Rows:
        """Return some of the rows, with all labels."""
        return Rows(self.x[some], self.labels, self.out[some], [each[some] for each in self.kept])


class Whole:
    """Minibatches as they are."""

    def __init__(self, network: Blueprint) -> None:
        self._learning = slice(network.layout.learning_rows)
        self._passing = slice(network.layout.learning_rows, None)
        self._layout = network.layout

    def learn(self, block: Block, rows: Rows, step: Step, behind: int | None) -> Learned:
        """Make one update. behind: the minibatch of which the passing rows are, where they are to pass behind it."""
        x, labels, out, kept = rows if behind is None else rows.part(self._learning)
        made = block.learn(at_line(x), self._layout, labels, step, out, list(map(at_line, kept)))
        # In two calls: rows of the next minibatch are to see the weights that this update has made.
        if behind is not None:
            self.pass_on(block, rows.part(self._passing), Step(behind))
        return made

    def pass_on(self, block: Block, rows: Rows, step: Step) -> None:
        block.pass_on(at_line(rows.x), step, rows.out, list(map(at_line, rows.kept)))

    def sizes(self, block: Block, factor: float | None, out: Tensor) -> LastStep:
        """Say what a row of metrics has of a block as it is. out: all rows that it handed on."""
        # In one order, whatever that of the buffer is (stage.py): the sum depends on it.
        return sizes_of(block, factor, root_mean_square([out[self._learning].contiguous()]))

    def read_out(self, head: Head, step: int, activities: Sequence[Tensor], labels: Tensor, factor: float) -> HeadStep:
        return head.step(step, list(map(at_line, activities)), labels, factor)


class Cut:
    """Minibatches of which those shards are here that this process computes; they lie one behind the other."""

    def __init__(self, network: Blueprint, shards: Shards) -> None:
        self._shards, self._layout = shards, network.shard

    def learn(self, block: Block, rows: Rows, step: Step, behind: int | None) -> Learned:
        learning = self._layout.learning_rows
        parts = self._parts(rows, slice(None if behind is None else learning))
        made = block.learn_shards(parts, self._layout, step, self._shards)
        if behind is not None:
            self.pass_on(block, rows, Step(behind), slice(learning, None))
        return made

    def pass_on(self, block: Block, rows: Rows, step: Step, some: slice = ALL) -> None:
        for each in self._parts(rows, some):
            block.pass_on(each.x, step.of(each.number), each.out, each.kept)

    def sizes(self, block: Block, factor: float | None, out: Tensor) -> LastStep:
        found = [root_mean_square([each.contiguous()]) for each in self._cut(out, slice(self._layout.learning_rows))]
        rms = None
        # None comes from the dtype alone: all replicas take part in this sum, or none does.
        if None not in found:
            squares = ([torch.tensor((each or 0.0) ** 2, dtype=torch.float64)] for each in found)
            (total,) = self._shards.sum(f"sizes of block {block.index}", squares)
            rms = math.sqrt(float(total) / self._shards.count)
        return sizes_of(block, factor, rms)

    def read_out(self, head: Head, step: int, activities: Sequence[Tensor], labels: Tensor, factor: float) -> HeadStep:
        seen = zip(*(map(at_line, self._cut(each)) for each in activities), strict=True)
        shards = [(list(each), of_shard) for each, of_shard in zip(seen, self._cut(labels), strict=True)]
        return head.step_shards(step, shards, self._shards, factor)

    def _parts(self, rows: Rows, some: slice) -> list[Shard]:
        """Cut a minibatch into some of the rows of each shard that is here, with all its labels."""
        none: Sequence[Tensor | None] = [None] * len(self._shards.own)
        labels = none if rows.labels is None else self._cut(rows.labels)
        x, out = map(at_line, self._cut(rows.x, some)), self._cut(rows.out, some)
        cut = zip(self._shards.own, x, labels, out, strict=True)
        kept = [list(map(at_line, self._cut(each, some))) for each in rows.kept]
        return [Shard(*each, [output[place] for output in kept]) for place, each in enumerate(cut)]

    def _cut(self, rows: Tensor, some: slice = ALL) -> list[Tensor]:
        """Cut rows into some of those of each shard that is here."""
        return [each[some] for each in rows.unflatten(0, (len(self._shards.own), -1)).unbind()]


def sizes_of(learner: Block | Head, factor: float | None, output_rms: float | None = None) -> LastStep:
    """Say what a row of metrics has of a block or of the read-out as it is."""
    # Without biases, gains and running statistics.
    matrices = [weight for weight in learner.weights().values() if weight.dim() > 1]
    return LastStep(
        None if learner.rate is None or factor is None else learner.rate * factor,
        root_mean_square(matrices),
        output_rms,
        factor,
    )

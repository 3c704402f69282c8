"""A trial of a block of a user's before its minibatches are cut: does what it makes of a row depend on that row alone?

    one copy    passes shard a
    another     passes shard b, which has the rows of a in its first half alone, and then a

The weights and buffers must be the same in both, after b and after a again, since a replica makes as many passes as it
has shards, of other rows; and so must what is made of the first half, and what is made of a. Rows are random, and draws
the same in all passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ffpipe.learn.local import LocalBlock, seeded
from ffpipe.learn.local_shards import ShardedLocal
from ffpipe.learn.shards import Shard
from ffpipe.learn.spec import RowLayout, RowSpec
from ffpipe.system.errors import UserError

CPU = torch.device("cpu")
# The most values of an edge: where rows are large, a trial has fewer than a shard.
MOST_VALUES = 1 << 22
# How far weights are moved, beside their mean size, or where all are 0 beside 1. As it begins, a block may not show
# what it does: its last weight may be 0, or a power iteration at its end.
MOVED = 0.1
# The end of the values of other rows, which else go from 0 to 1: mean and deviation of a minibatch change with them.
OTHERS = 4.0


@dataclass(frozen=True)
class ShardTrial:
    """The trial of one block. where: names it. make: makes it on the CPU. kept: one row of each kept output that it
    gets. labels: of an example; None: it gets none. layout: of a shard."""

    where: str
    make: Callable[[], LocalBlock]
    kept: Sequence[RowSpec]
    labels: RowSpec | None
    classes: int
    layout: RowLayout
    seed: int

    def undivided(self) -> str:
        """Return why minibatches cannot be cut, in words that follow the block's name; "" where nothing is seen, as of
        a block that needs a GPU. Raises UserError for what no step could do."""
        one, other = self._moved(), self._moved()
        # A shard of one example has no other row.
        largest = max(1, *(spec.size for spec in (one.inputs, one.outputs, *self.kept)))
        layout = RowLayout(max(2, min(self.layout.batch, MOST_VALUES // largest)), self.layout.learning)
        shard, beside = self._shards(one, layout)
        try:
            made, changed = self._passed(one, shard, layout), self._passed(other, beside, layout)
            moved = _differing(one, other)
            again = self._passed(other, shard, layout)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None
        # On another device and other rows it need not fail; where it does, the run says so.
        except (Exception, SystemExit):
            return ""
        # After as many passes, which shows what is kept of the latest rows; and after one more, which shows counts.
        if name := moved or _differing(one, other):
            return f"changes {name!r} in each forward pass of training"
        half, margins = _first_half(layout), [_margin(each) for each in made]
        if not all(_alike(a[half], b[half], margin) for a, b, margin in zip(made, changed, margins, strict=True)):
            return "makes of a row what depends on other rows of the minibatch"
        if not all(_alike(a, b, margin) for a, b, margin in zip(made, again, margins, strict=True)):
            return "makes something else of the same rows after another forward pass"
        return ""

    def _moved(self) -> ShardedLocal:
        """Make the block, and move each of its weights away from 0 a little."""
        block, chance = self.make(), torch.Generator().manual_seed(self.seed)
        assert isinstance(block, ShardedLocal)  # as all are where there are shards
        with torch.no_grad():
            for weight in (parameter for parameter in block.parameters() if parameter.requires_grad):
                by = torch.rand(weight.shape, generator=chance) * MOVED * (float(weight.abs().mean()) or 1.0)
                weight.add_(torch.where(weight < 0, -by, by).to(weight.dtype))
        return block

    def _shards(self, block: ShardedLocal, layout: RowLayout) -> tuple[Shard, Shard]:
        """Make a shard, and the same with other rows in the place of those of its second half of examples."""
        chance, half = torch.Generator().manual_seed(self.seed), _first_half(layout)

        def drawn(shape: tuple[int, ...], dtype: torch.dtype, end: float = 1.0) -> Tensor:
            if dtype.is_floating_point:  # not below 0, as pixels and rectified activities
                return (end * torch.rand(shape, generator=chance)).to(dtype)
            return torch.randint(0, self.classes, shape, generator=chance).to(dtype)

        rows, others = [], []
        for spec in (block.inputs, *self.kept):
            shape = (layout.rows, *spec.shape)
            rows.append(drawn(shape, spec.dtype))
            others.append(drawn(shape, spec.dtype, OTHERS))
            others[-1][half] = rows[-1][half]
        labels = None if self.labels is None else drawn((layout.batch, *self.labels.shape), torch.int64)
        outs = (torch.empty(layout.rows, *block.outputs.shape, dtype=block.outputs.dtype) for _ in range(2))
        one, other = (Shard(0, x, labels, out, kept) for (x, *kept), out in zip((rows, others), outs, strict=True))
        return one, other

    def _passed(self, block: ShardedLocal, shard: Shard, layout: RowLayout) -> tuple[Tensor, Tensor]:
        """Return what the body makes of a shard, and what is handed on."""
        with seeded(CPU, self.seed, "shapes"):
            return block.tried(shard, layout), shard.out.clone()


def _differing(one: LocalBlock, other: LocalBlock) -> str:
    """Return the name of a weight or buffer that two blocks do not have alike; "" where there is none."""
    own, others = (dict(block.named_parameters()) | dict(block.named_buffers()) for block in (one, other))
    return next((name for name, tensor in own.items() if not _alike(tensor, others.get(name), 0.0)), "")


def _first_half(layout: RowLayout) -> Tensor:
    """Return the numbers of the rows of the first half of the examples."""
    places = torch.arange(layout.rows).view(-1, layout.batch)
    return places[:, : layout.batch // 2].flatten()


def _margin(made: Tensor) -> float:
    """Return how far two results for one row may be apart: by rounding, where the number of rows in a product hangs on
    the rows. Beside what tells rows apart, which may be little of them."""
    if not made.is_floating_point() or not made.numel():
        return 0.0
    rows = made.double().nan_to_num(posinf=0.0, neginf=0.0)
    spread = float((rows - rows.mean(0)).abs().max())
    return float(spread * torch.finfo(made.dtype).eps ** 0.75)


def _alike(one: Tensor, other: Tensor | None, margin: float) -> bool:
    """Return whether two tensors have the same numbers, within a margin."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one.detach().double(), other.detach().double(), rtol=0.0, atol=margin, equal_nan=True)

"""A block: a part of a network that learns from its own input. The one interface that stages and networks know.

    x ──► block ──► out        no graph leaves it, and it changes its own weights alone
            │
            └── loss of its local objective

A stage calls `learn` for each minibatch, `pass_on` for rows that only go through, and `score` in evaluations; a trained
network calls `forward`. It does not know which stage it is in, what a chunk is, nor who its neighbours are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ffpipe.learn.objectives import Learned
from ffpipe.learn.optim import Optimizing
from ffpipe.learn.shards import Shard, Shards
from ffpipe.learn.spec import PLAIN, RowLayout, RowSpec
from ffpipe.storage.checkpoint import TensorSpec

# The prefix of an optimiser's tensors, in the names of a block's state.
OPTIMIZER = "optimizer."


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Step:
    """One weight update of a block. index: of the minibatch, since the start of the run. factor: on its learning rate;
    None where the block does not learn at this step and only passes rows on. leave: a block may call it as soon as
    `out` holds all that it hands on, so that this leaves while the block still learns. shard: the part of the minibatch
    of which the rows are, where it is cut into shards. role: of all rows, where a step has those of one alone
    (turns.py)."""

    index: int
    factor: float | None = 1.0
    leave: Callable[[], object] = nothing
    shard: int | None = None
    role: str = ""

    def of(self, shard: int) -> Step:
        """Return the same step on the rows of one shard."""
        return replace(self, shard=shard)

    @property
    def key(self) -> tuple[int, ...]:
        """The key of randomness on these rows, beside the block."""
        # By shard, or what is drawn for one would be drawn again for every other one of the minibatch.
        return (self.index,) if self.shard is None else (self.index, self.shard)


class Block(nn.Module):
    """A part of a network that learns from its own input. Subclasses set the attributes and write the methods.

    index: its place in the network, from 0. inputs, outputs: one row of what it takes and hands on. roles: the rows
    that it learns from (spec.PAIRS or spec.PLAIN). keep: name under which later blocks find its output, or "". use:
    names of kept outputs, which come to the methods below as `kept`, in this order. optimizer: changes the weights,
    and has a state of its own. rate: its learning rate before the schedule, for the log; None where it has no one rate.
    undivided: why its minibatches cannot be cut into shards, in words that follow its name; "" where they can.
    reads_channels_last: it puts images into that order before it reads them, so that any order gives the same bits.
    """

    index: int
    inputs: RowSpec
    outputs: RowSpec
    roles: tuple[str, ...] = PLAIN
    keep: str = ""
    use: tuple[str, ...] = ()
    optimizer: Optimizing | None = None
    rate: float | None = None
    undivided: str = "has no learn_shards"
    reads_channels_last: bool = False

    def forward(self, x: Tensor, *kept: Tensor) -> Tensor:
        """Compute what the next block gets of rows x (n, *inputs.shape): (n, *outputs.shape). Can be differentiated."""
        return self.score(x, *kept)[0]

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `forward`, and what each row says of the answer: goodness (n,) or logits (n, ..., classes)."""
        raise NotImplementedError

    def learn(
        self, x: Tensor, layout: RowLayout, labels: Tensor | None, step: Step, out: Tensor, kept: Sequence[Tensor] = ()
    ) -> Learned:
        """Make one update from the learning rows of x, and put what is handed on of all its rows into out.

        x: (layout.learning_rows or more, *inputs.shape), passing rows last. labels: (layout.batch, ...) int64; None
        where the run has negatives. Called without a gradient mode.
        """
        raise NotImplementedError

    def learn_shards(self, shards: Sequence[Shard], layout: RowLayout, step: Step, of: Shards) -> Learned:
        """Make the same update from the shards that are here, adding up by `of` what others make of theirs.

        layout: of a shard. Returns what the whole minibatch came to. Gradients are of shards, so that their bits do
        not depend on how many are here.
        """
        raise NotImplementedError

    def positive_loss(self, scores: Tensor) -> Tensor | None:
        """Return the loss that each row has as a positive one, (n,) float64, by what `score` says of it; or None."""
        return None

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Sequence[Tensor] = ()) -> None:
        """Put what is handed on of rows x, from which the block does not learn, into out."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """Give what the trained block is made of, by name: the tensors themselves. A run's digest is over these."""
        return dict(self.state_dict(keep_vars=True))

    def state(self) -> dict[str, Tensor]:
        """Return all that the block needs to go on: weights and buffers, and what its optimiser keeps. No copies."""
        optimizer = {} if self.optimizer is None else self.optimizer.state()
        # keep_vars: detached tensors would be others at each call, and parking (stage.parked) knows them by identity.
        return dict(self.state_dict(keep_vars=True)) | {f"{OPTIMIZER}{name}": kept for name, kept in optimizer.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.set_weights(state)
        if self.optimizer is not None:
            self.optimizer.load({n.removeprefix(OPTIMIZER): t for n, t in state.items() if n.startswith(OPTIMIZER)})

    @torch.no_grad()
    def set_weights(self, state: dict[str, Tensor]) -> None:
        """Take weights and buffers of what `state` returned, and nothing of an optimiser."""
        for name, tensor in self.state_dict(keep_vars=True).items():
            tensor.copy_(state[name])
        # All that is made of the weights, as a rounded copy for products, is of the old ones.
        self.renew()

    def contents(self, step: int) -> dict[str, TensorSpec]:
        """Return shapes and dtypes of what `state` has after so many steps of the run, and what counts may be."""
        optimizer = {} if self.optimizer is None else self.optimizer.contents(step)
        kept = {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in self.state_dict(keep_vars=True).items()}
        return kept | {f"{OPTIMIZER}{name}": each for name, each in optimizer.items()}

    def scratch(self) -> list[Tensor]:
        """Return large tensors beside `state`, whose contents `renew` makes again."""
        return []

    def renew(self) -> None:
        """Make what `scratch` lists."""

"""A dense Forward-Forward layer whose minibatches are cut into shards: the same rule, its gradients added up by shards.

Products are of a shard. Sums over the whole minibatch beside gradients, the mean activities of peer normalisation, are
added up with them: the pull that they give comes to each positive row alike, so that it enters the gradient behind the
products, as an outer product of it and the sum of these rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ffpipe.learn.block import Step, nothing
from ffpipe.learn.denormals import flush_denormals, is_due
from ffpipe.learn.dense import FFDense
from ffpipe.learn.objectives import Learned
from ffpipe.learn.precision import wide
from ffpipe.learn.products import accumulate
from ffpipe.learn.shards import Shard, Shards
from ffpipe.learn.spec import RowLayout
from ffpipe.learn.threads import total
from ffpipe.learn.updates import gradient_of

ALL = slice(None)


class ShardedDense(FFDense):
    """The layer where `training.shards` is more than 1."""

    undivided = ""

    def learn_shards(self, shards: Sequence[Shard], layout: RowLayout, step: Step, of: Shards) -> Learned:
        training, pairs = self.config, layout.batch
        if step.factor is None:
            return Learned(*of.sum(f"block {self.index}", (self._judged(shard, pairs, step) for shard in shards)))
        early = training.hand_on == "before"
        update = self._shards_together if training.phases == "together" else self._shards_apart
        first = update(shards, pairs, replace(step, leave=step.leave if early else nothing), of)
        # As in `learn`: rows that are handed on may have left.
        loss, spare = first.loss, shards
        if early and training.local_steps > 1:
            spare = [shard._replace(out=torch.empty_like(shard.out)) for shard in shards]
        for _ in range(1, training.local_steps):
            loss = loss + update(spare, pairs, replace(step, leave=nothing), of).loss
        if not early:
            for shard in shards:
                self._activated(shard, step)
        if is_due(step.index, training.updates):
            flush_denormals([self.mean_activity])
            self.optimizer.flush_denormals()
        return Learned(loss / training.local_steps, *first[1:])

    def _judged(self, shard: Shard, pairs: int, step: Step) -> list[Tensor]:
        """Return the loss and the errors of a shard that is only passed on."""
        _, goodness = self._activated(shard, step)
        slope, errors = self._judge(goodness[:pairs], goodness[pairs : 2 * pairs])
        return [total(slope.loss), *errors]

    def _activated(self, shard: Shard, step: Step, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        """Return activities and goodness of some rows of a shard, and put what is handed on of them into its `out`."""
        dropped = self._dropped(step.of(shard.number), len(shard.x))
        activity, _, goodness = self._activate(
            shard.x[rows], shard.out[rows], None if dropped is None else dropped[rows]
        )
        return activity, goodness

    def _shards_together(self, shards: Sequence[Shard], pairs: int, step: Step, of: Shards) -> Learned:
        """Do `_update_together` by shards."""

        # One after the other, as they are added up: no more gradients are held than the tree is high (shards.fold).
        def made() -> Iterator[list[Tensor]]:
            for shard in shards:
                activity, goodness = self._activated(shard, step)
                # With the last shard all rows of the minibatch are whole, and nothing is updated yet.
                if shard is shards[-1]:
                    step.leave()
                slope, errors = self._judge(goodness[:pairs], goodness[pairs : 2 * pairs])
                peers = self._peers(shard.x[:pairs], activity[:pairs])
                delta = self._derivative(activity[: 2 * pairs], torch.cat([slope.positive, slope.negative]))
                yield [*self._gradients(shard.x[: 2 * pairs], delta), *peers, total(slope.loss), *errors]

        weight, bias, *rest = of.sum(f"block {self.index}", made())
        peers, judged = (rest[:2], rest[2:]) if self.config.peer else ([], rest)
        self._update_from(weight, bias, peers, of.count * pairs, step)
        return Learned(*judged)

    def _shards_apart(self, shards: Sequence[Shard], pairs: int, step: Step, of: Shards) -> Learned:
        """Do `_update_apart` by shards."""
        goodness: list[Tensor] = []  # of the positive rows of each

        def of_positive() -> Iterator[list[Tensor]]:
            for shard in shards:
                activity, positive = self._activated(shard, step, slice(pairs))
                goodness.append(positive)
                peers = self._peers(shard.x[:pairs], activity)
                delta = self._derivative(activity, self._objective(positive, positive).positive)
                yield [*self._gradients(shard.x[:pairs], delta), *peers]

        def of_negative() -> Iterator[list[Tensor]]:
            for shard, positive in zip(shards, goodness, strict=True):
                activity, found = self._activated(shard, step, slice(pairs, None))
                if shard is shards[-1]:
                    step.leave()
                slope, errors = self._judge(positive, found[:pairs])
                delta = self._derivative(activity[:pairs], slope.negative)
                yield [*self._gradients(shard.x[pairs : 2 * pairs], delta), total(slope.loss), *errors]

        weight, bias, *peers = of.sum(f"block {self.index}, positive", of_positive())
        self._update_from(weight, bias, peers, of.count * pairs, step)
        weight, bias, *judged = of.sum(f"block {self.index}, negative", of_negative())
        self._update_from(weight, bias, [], of.count * pairs, step)
        return Learned(*judged)

    def _gradients(self, rows: Tensor, delta: Tensor) -> list[Tensor]:
        """Return a shard's part of the gradients of weight and bias."""
        return [gradient_of(self.weight, rows, delta), total(delta, 0)]

    def _peers(self, rows: Tensor, activity: Tensor) -> list[Tensor]:
        """Return a shard's part of what peer normalisation sees: sums of positive rows and of their activities."""
        return [total(wide(rows), 0), total(activity, 0)] if self.config.peer else []

    def _update_from(self, weight: Tensor, bias: Tensor, peers: Sequence[Tensor], examples: int, step: Step) -> None:
        """Update from sums over all shards."""
        assert step.factor is not None
        if peers:
            rows, activity = peers
            pull = self._peer_pull(activity / examples)
            accumulate(weight, rows.unsqueeze(1), pull.unsqueeze(0))
            bias.add_(pull, alpha=examples)
        self.optimizer.apply(weight, bias, examples, step.factor)

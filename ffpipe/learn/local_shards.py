"""A block trained by autograd whose minibatches are cut into shards: the same rule, its gradients added up by shards.

Shards are worked one after the other. If the block has batch normalisation, which is over the whole minibatch, their
forward passes meet in it (meeting.py), and one backward pass goes through all of them; so that each shard's gradient is
its own all the same, each has parameters of its own, which share the memory of the block's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ffpipe.learn.batchnorm import Shared, passing
from ffpipe.learn.block import Step
from ffpipe.learn.denormals import is_due
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.meeting import Apart, Meeting
from ffpipe.learn.objectives import Learned
from ffpipe.learn.shards import Shard, Shards
from ffpipe.learn.spec import RowLayout


class ShardedLocal(LocalBlock):
    """The block where `training.shards` is more than 1."""

    # Autocast has one cache for all threads, which the first pass that ends would empty for the others: a weight that
    # is used twice would be rounded once in one pass and twice in another.
    caches_rounded = False

    @cached_property
    def _meets(self) -> bool:
        """True where its batch normalisation is over all shards."""
        return any(isinstance(part, Shared) for part in self.modules())

    @cached_property
    def _views(self) -> list[ShardedLocal]:
        """The block and the views of it that have been made so far."""
        return [self]

    def learn_shards(self, shards: Sequence[Shard], layout: RowLayout, step: Step, of: Shards) -> Learned:
        learns = step.factor is not None and self.optimizer is not None
        rows, device = layout.learning_rows, shards[0].x.device
        groups = [list(shards)] if self._meets else [[shard] for shard in shards]
        views = self._as_many_views(max(map(len, groups)))
        for view in views:
            view._mode(training=True)

        def made() -> Iterator[list[Tensor]]:
            for group in groups:
                with torch.set_grad_enabled(learns):
                    found = self._together(group, layout, step, of)
                # If there are passing rows, `out` is not whole before these are in it.
                last = group is groups[-1] and len(shards[-1].x) == rows
                if last and self.config.hand_on == "before":
                    step.leave()
                sums = [(learned.loss.detach(), learned.errors.detach()) for _, learned, _ in found]
                losses = [mean for *_, mean in found]
                del found  # the graph keeps what the backward pass needs of it
                if learns:
                    with self._drawing(device, step.of(group[0].number)):
                        torch.autograd.backward(losses)
                for view, (loss, errors) in zip(views, sums, strict=False):
                    yield [loss, errors, *(view._taken() if learns else [])]

        with self._threads(device), self._drawing(device, step):
            loss, errors, *gradients = of.sum(f"block {self.index}", made())
            if step.factor is not None and self.optimizer is not None:
                self._give(gradients)
                self.optimizer.step(step.factor)
                if is_due(step.index):
                    self.optimizer.flush_denormals()
                for group in groups if self.config.hand_on == "after" else ():
                    with self._tracking_nothing():
                        self._together(group, layout, step, of)
        for shard in shards:
            if len(shard.x) > rows:
                rest = [each[rows:] for each in shard.kept]
                self.pass_on(shard.x[rows:], step.of(shard.number), shard.out[rows:], rest)
        return Learned(loss, errors)

    def _together(
        self, group: Sequence[Shard], layout: RowLayout, step: Step, of: Shards
    ) -> list[tuple[Tensor, Learned, Tensor]]:
        """Return what `_pass` makes of each shard of a group, whose passes meet."""
        meeting, views = Meeting(group[0].x.device, own=self._own), self._as_many_views(len(group))
        each = zip(views, group, strict=True)
        return meeting.run([partial(view._pass, meeting, shard, layout, step, of) for view, shard in each])

    def _pass(
        self, meeting: Meeting, shard: Shard, layout: RowLayout, step: Step, of: Shards
    ) -> tuple[Tensor, Learned, Tensor]:
        """Pass one shard forward, judge it, and put what is handed on into its `out`. The last tensor is its part of
        the mean loss of the minibatch, so that gradients of shards need only be summed."""
        rows, device = layout.learning_rows, shard.x.device
        meets = passing(meeting, of) if self._meets else nullcontext()
        with self._threads(device), self._drawing(device, step.of(shard.number)), self._format(device), meets:
            h, learned = self._passed(shard.x[:rows], [each[:rows] for each in shard.kept], layout, shard.labels)
            # Here, as what an objective draws for it is of this shard alone, whichever others are in this process.
            with torch.no_grad():
                self._put(h.detach(), shard.out[:rows])
            # In the thread of the pass: gradients that meet are added up in the order of numbers that autograd counts
            # by thread, and that is to be one order however many shards are here.
            return h, learned, learned.loss / of.whole(layout)

    def tried(self, shard: Shard, layout: RowLayout) -> Tensor:
        """Pass one shard forward and back, as in a step, but for batch normalisation over shards, which leaves rows as
        they are. Returns what the body makes; what is handed on is put into the shard's `out`."""
        learns = self.optimizer is not None
        self._mode(training=True)
        with torch.set_grad_enabled(learns):
            h, learned, _ = self._pass(Apart(shard.x.device), shard, layout, Step(0), Shards(1, range(1)))
            if learns:
                learned.loss.backward()
        return h.detach()

    def _as_many_views(self, count: int) -> list[ShardedLocal]:
        """Return the block and views of it, whose parameters share its memory and have gradients of their own."""
        while len(self._views) < count:
            memo: dict[int, Any] = {id(buffer): buffer for buffer in self.buffers()}
            memo |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in self.parameters()}
            # A shallow copy has the very dictionary of modules of the block, which must not get the view's.
            view = copy.copy(self)
            body, objective = copy.deepcopy((self.body, self.objective), memo)
            view._modules = {**self._modules, "body": body, "objective": objective}
            self._views.append(view)
        return self._views[:count]

    def _taken(self) -> list[Tensor]:
        """Take the gradients of a shard, which parameters lose; with them, whether the loss has reached each."""
        assert self.optimizer is not None
        found, reached, parameters = [], [], dict(self.named_parameters())
        # By name and in the optimiser's order: its parameters are the block's own, and this may be a view.
        for name in self.optimizer.parameters:
            parameter = parameters[name]
            reached.append(parameter.grad is not None)
            found.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            parameter.grad = None
        # Counts beside sums: torch passes over a parameter without a gradient, but would decay one whose gradient is 0.
        return [*found, torch.tensor(reached, dtype=torch.int64)]

    def _give(self, gradients: Sequence[Tensor]) -> None:
        """Give parameters what `_taken` gave of all shards."""
        assert self.optimizer is not None
        *found, reached = gradients
        for parameter, gradient, count in zip(self.optimizer.parameters.values(), found, reached.tolist(), strict=True):
            parameter.grad = gradient if count else None

"""One message on its way through a stage: what came with its rows, and what blocks add for those that come later."""

from __future__ import annotations

import torch
from torch import Tensor

from ffpipe.learn.block import Block
from ffpipe.pipeline.packet import KEPT, LABELS, LOSS, SCORE, TAP, WRONG, Tensors, X
from ffpipe.pipeline.stage_spec import StageSpec


class Passage:
    """The rows of a message as the latest block left them, and beside them what routes.py sends along.

    x: (minibatches, n, ...). labels: (minibatches, B, ...) or None. taps: what the read-out sees of each block so far,
    (minibatches, B, ...). said: labels, and of an evaluation the sums over blocks so far.
    """

    def __init__(self, spec: StageSpec, tensors: Tensors, *, tests: bool = False) -> None:
        """tests: whether the rows are those of an evaluation."""
        network, routes = spec.network, spec.routes
        self._neutral_last = network.training.labelled or (tests and network.training.reads_goodness)
        self._shards = 1 if tests else len(spec.shards)  # evaluations are not cut: the first replica works them whole
        self.x, self.labels = tensors[X], tensors.get(LABELS)
        self.said = {name: tensors[name] for name in (LABELS, SCORE, WRONG, LOSS) if name in tensors}
        self.taps = {int(name.removeprefix(TAP)): t for name, t in tensors.items() if name.startswith(TAP)}
        self._network, self._leaving_names = network, routes.leaving(spec.index)
        self._made: Tensors = {}
        self._kept = {name.removeprefix(KEPT): t for name, t in tensors.items() if name.startswith(KEPT)}
        # The output of the block right before comes once, as x, be it kept or seen by the read-out as well (routes.py).
        self._kept |= {name: self.x for name, block in network.kept.items() if routes.is_x(block, spec.index)}
        before = spec.layers.start - 1
        if spec.is_last and before in network.taps and self.labels is not None:
            self.taps[before] = self._seen(self.x, self.labels)

    def kept_for(self, block: Block) -> list[Tensor]:
        """Return the outputs that a block gets as further arguments, (minibatches, n, ...) each."""
        return [self._kept[name] for name in block.use]

    def put(self, block: Block, out: Tensor) -> None:
        """Take what a block made (minibatches, n, ...): the next one's rows, and what others are to see."""
        self.x = out
        # Without labels no row here is for the read-out: there is none, or in lock step the pairs have come alone.
        if block.index in self._network.taps and self.labels is not None:
            self.taps[block.index] = self._seen(out, self.labels)
            self._hand_out(f"{TAP}{block.index}", self.taps[block.index])
        if block.keep:
            self._kept[block.keep] = out
            self._hand_out(f"{KEPT}{block.keep}", out)

    def leaving(self) -> Tensors:
        """Return all that goes on to other stages."""
        return {X: self.x, **self.said, **self._made}

    def _hand_out(self, name: str, tensor: Tensor) -> None:
        if name in self._leaving_names:  # a copy, since the next message's takes the same memory
            self._made[name] = tensor.clone(memory_format=torch.contiguous_format)

    def _seen(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return those of rows (minibatches, n, ...) that labels (minibatches, B) are of: neutral ones come last; where
        rows carry no labels, the positive ones, or in an evaluation all, come first. So it is in each shard."""
        count = labels.shape[1] // self._shards
        if self._shards > 1:
            cut = rows.unflatten(1, (self._shards, -1))
            seen = cut[:, :, cut.shape[2] - count :] if self._neutral_last else cut[:, :, :count]
            return torch.flatten(seen, 1, 2)
        return rows[:, rows.shape[1] - count :] if self._neutral_last else rows[:, :count]

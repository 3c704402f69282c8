"""What a block costs, asked of the block itself: made without memory, it takes one step on rows that have none.

The step runs on torch's meta device, where every operation has shapes and no numbers, so that a network of any size is
judged in milliseconds on any host.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import META, Blueprint
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.contents import OPTIMIZER, contents_bytes
from ffpipe.pipeline.job import Job

# The first step makes the state of an optimiser; what later ones take is what counts.
STEPS = 2


@dataclass(frozen=True)
class BlockCost:
    """Bytes and operations of one block.

    parameters: weights, buffers, and `scratch`, copies of them in another format. optimizer: what it keeps between
    steps. step: what comes and goes within a step at most, beside the rows that come in and go out. flops:
    floating-point operations of a step.
    """

    parameters: int
    scratch: int
    optimizer: int
    step: int
    flops: int


@lru_cache(maxsize=16)
def costs_of(network: Blueprint) -> tuple[BlockCost, ...]:
    """The cost of each block of a network; blocks that are alike are looked at once."""
    found: dict[object, BlockCost] = {}
    costs = []
    for outline in network.outlines:
        block = network.make(outline.index, Workspace(META))
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in block.weights().items())
        key = (outline.inputs, outline.outputs, outline.name, shapes, str(block))
        if key not in found:
            found[key] = cost_of(block, network)
        costs.append(found[key])
    return tuple(costs)


def largest_block_bytes(job: Job) -> int:
    """Bytes of the block that takes most, with its rows of a minibatch."""
    costs = costs_of(job.network)
    return max(cost.parameters + cost.optimizer + cost.step for cost in costs) + 2 * job.minibatch_bytes


def cost_of(block: Block, network: Blueprint) -> BlockCost:
    """The cost of a block that was made on META."""
    layout = network.layout
    x = torch.empty(layout.rows, *block.inputs.shape, dtype=block.inputs.dtype, device=META)
    out = torch.empty(layout.rows, *block.outputs.shape, dtype=block.outputs.dtype, device=META)
    labels = torch.empty(layout.batch, *network.labels.shape, dtype=torch.int64, device=META)
    kept = [
        torch.empty(layout.rows, *network.outlines[maker].outputs.shape, device=META)
        for maker in (network.kept[name] for name in block.use)
    ]
    contents = block.contents(1)
    optimizer = contents_bytes({name: kept for name, kept in contents.items() if name.startswith(OPTIMIZER)})
    scratch = sum(tensor.nbytes for tensor in block.scratch())
    parameters = contents_bytes(contents) - optimizer + scratch
    with torch.no_grad():
        block.learn(x, layout, labels, Step(0), out, kept)
        flops = FlopCounterMode(display=False)
        with flops, PeakMemory() as memory:
            block.learn(x, layout, labels, Step(1), out, kept)
    held = sum(buffer.nbytes for buffer in workspace_buffers(block))
    return BlockCost(parameters, scratch, optimizer, memory.peak + held, flops.get_total_flops())


def workspace_buffers(block: Block) -> list[Tensor]:
    """The buffers of a block that the first step made."""
    workspace = getattr(block, "_workspace", None)
    return list(workspace.buffers()) if isinstance(workspace, Workspace) else []


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside it, as long as they live. peak: the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no hints for it
        self.peak = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in before and key not in self._alive:
                    self._alive.add(key)
                    self._now += size
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._freed, key, size)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size

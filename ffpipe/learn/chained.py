"""Several blocks as one module, through which a gradient goes: the body of the yardstick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffpipe.learn.block import Block
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.objectives import Objective
from ffpipe.system.errors import UserError
from ffpipe.system.rng import process_state, set_process_state


class Chained(nn.Module):
    """Bodies of local blocks and whole blocks of the user's, one after the other.

    Modules that objectives own are not in it, unless they change what is handed on to the next block. Floating-point
    parameters of whole blocks, which may learn without autograd, get gradients. checkpointing:
    keep the activations of no body but its input, and make them again in the backward pass (Chen et al., arXiv
    1604.06174).
    """

    def __init__(self, blocks: Sequence[Block], *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.bodies = nn.ModuleList(block.body if isinstance(block, LocalBlock) else block for block in blocks)
        for weight in (each for body in self.bodies if isinstance(body, Block) for each in body.parameters()):
            weight.requires_grad_(weight.is_floating_point())
        self.edges = [(block.keep, block.use) for block in blocks]
        # The last one's is beside the chain.
        self.handing = nn.ModuleDict(
            {
                str(block.index): block.objective
                for block in blocks[:-1]
                if isinstance(block, LocalBlock) and type(block.objective).hand_on is not Objective.hand_on
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pass rows through all blocks. Raises UserError where a block hands on no gradient to weights that are to
        learn."""
        kept: dict[str, Tensor] = {}
        for index, (body, (keep, use)) in enumerate(zip(self.bodies, self.edges, strict=True)):
            seen = [x, *(kept[name] for name in use)]
            if self.checkpointing and self.training:
                # The reentrant kind would give no gradients to the first body, whose input needs none itself.
                h = x = checkpoint(body, *seen, use_reentrant=False, context_fn=partial(_contexts, body))
            else:
                h = x = body(*seen)
            if str(index) in self.handing:
                objective = self.handing[str(index)]
                assert isinstance(objective, Objective)
                x = objective.hand_on(h)
            # A body that takes no gradient for weights of its own has none in a block that learns alone either.
            learning = [h, *seen, *(body.parameters() if isinstance(body, Block) else ())]
            learns = self.training and torch.is_grad_enabled() and any(each.requires_grad for each in learning)
            if learns and not x.requires_grad:
                raise UserError(
                    f"block {index} hands on what has no gradient, so that backpropagation would leave weights as they "
                    "were: compute it by torch from rows and weights, without no_grad and detach, in floating point"
                )
            if keep:
                kept[keep] = x
        return x


def _contexts(body: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Make the contexts of a body's first pass, which begins at once, and of the second, which makes its activations
    again: with buffers as they were the first time, since running statistics move with every pass, left as found."""
    # torch puts back its own generators; a user's body may draw from NumPy's and Python's.
    before, drawing = [buffer.clone() for buffer in body.buffers()], process_state()

    @contextmanager
    def second() -> Iterator[None]:
        after, drawn = [buffer.clone() for buffer in body.buffers()], process_state()
        _put(body, before)
        set_process_state(drawing)
        # torch leaves the second pass by an exception as soon as it has what the gradients need.
        try:
            yield
        finally:
            _put(body, after)
            set_process_state(drawn)

    return nullcontext(), second()


def _put(body: nn.Module, values: Sequence[Tensor]) -> None:
    for buffer, value in zip(body.buffers(), values, strict=True):
        # Autograd must not take it for a change of what it has kept.
        buffer.data.copy_(value)

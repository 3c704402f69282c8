"""Several blocks as one module, through which a gradient goes: the body of the yardstick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffpipe.learn.block import Block
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.objectives import Objective


class Chained(nn.Module):
    """Bodies of local blocks and whole blocks of the user's, one after the other.

    Modules that objectives own are not in it, unless they change what is handed on to the next block. checkpointing:
    keep the activations of no body but its input, and make them again in the backward pass (Chen et al., arXiv
    1604.06174).
    """

    def __init__(self, blocks: Sequence[Block], *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.bodies = nn.ModuleList(block.body if isinstance(block, LocalBlock) else block for block in blocks)
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
        kept: dict[str, Tensor] = {}
        for index, (body, (keep, use)) in enumerate(zip(self.bodies, self.edges, strict=True)):
            seen = [kept[name] for name in use]
            if self.checkpointing and self.training:
                x = checkpoint(body, x, *seen, use_reentrant=False, context_fn=_Buffers(body).contexts)
            else:
                x = body(x, *seen)
            if str(index) in self.handing:
                x = self._objective(index).hand_on(x)
            if keep:
                kept[keep] = x
        return x

    def _objective(self, index: int) -> Objective:
        objective = self.handing[str(index)]
        assert isinstance(objective, Objective)
        return objective


class _Buffers:
    """Buffers of a body whose activations are made again: from what they were the first time, as running statistics
    move with every pass, and left as they were found."""

    def __init__(self, body: nn.Module) -> None:
        self._body = body
        self._before: list[Tensor] = []

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of the first pass and of the second."""
        return self._first(), self._second()

    @contextmanager
    def _first(self) -> Iterator[None]:
        self._before = self._copies()
        yield

    @contextmanager
    def _second(self) -> Iterator[None]:
        after = self._copies()
        self._put(self._before)
        try:
            yield
        finally:
            self._put(after)

    def _copies(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._body.buffers()]

    def _put(self, values: Sequence[Tensor]) -> None:
        for buffer, value in zip(self._body.buffers(), values, strict=True):
            # Autograd must not take it for a change of what it has kept.
            buffer.data.copy_(value)

"""Several blocks as one module, through which a gradient goes: the body of the yardstick."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffpipe.learn.block import Block
from ffpipe.learn.local import LocalBlock


class Chained(nn.Module):
    """The bodies of local blocks, one after the other; what their objectives own is not in it.

    checkpointing: keep the activations of no body but its input, and make them again in the backward pass (Chen et
    al., arXiv 1604.06174).
    """

    def __init__(self, blocks: Sequence[Block], *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.bodies = nn.ModuleList(block.body for block in blocks if isinstance(block, LocalBlock))
        self.edges = [(block.keep, block.use) for block in blocks]

    def forward(self, x: Tensor) -> Tensor:
        kept: dict[str, Tensor] = {}
        for body, (keep, use) in zip(self.bodies, self.edges, strict=True):
            seen = [kept[name] for name in use]
            if self.checkpointing and self.training:
                x = checkpoint(body, x, *seen, use_reentrant=False)
            else:
                x = body(x, *seen)
            if keep:
                kept[keep] = x
        return x

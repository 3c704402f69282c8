"""The fields of the read-outs: what turns a trained network's activities into answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.config.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class Readout:
    """The part of `training` that is about read-outs."""

    readout: Annotated[
        Literal["last", "sum", "softmax"],
        Meta(
            description="negatives none: the answer is that of the last block, or of the sum over blocks; otherwise "
            "softmax: tests leave goodness out, which takes a forward pass for each class"
        ),
    ] = "last"
    head: Annotated[bool, Meta(description="train a linear softmax head on the outputs of blocks")] = True
    # Hinton leaves the first layer out, of the head and of goodness (arXiv 2212.13345, 3.2 and 3.3).
    head_from: Annotated[int, Meta(ge=0, description="first layer that the head sees; 1 leaves the first out")] = 1
    head_bias: Annotated[bool, Meta(description="the head has a bias for each class")] = False
    head_initialization: Annotated[
        Literal["zeros", "glorot"],
        Meta(description="of the head's weights; glorot: as those of one layer on all that it sees"),
    ] = "zeros"
    # Rate and decay of the head in Hinton's program.
    head_optimizer: Annotated[Optimizer, Meta(description="of the head")] = field(
        default_factory=lambda: Optimizer(learning_rate=0.1, weight_decay=0.003)
    )
    goodness_from: Annotated[
        int, Meta(ge=0, description="first block whose goodness or logits count in their sum; 1 leaves the first out")
    ] = 1

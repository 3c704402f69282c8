"""The fields of the network: dense layers by their widths, blocks by their kinds, or what a user's function returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.config.blocks import BlockConfig, Option
from ffpipe.config.limits import MOST_LAYERS, MOST_UNITS


@dataclass(frozen=True, kw_only=True)
class Network:
    """The part of `training` that says what is trained."""

    method: Annotated[
        Literal["forward-forward", "backprop"],
        Meta(description="backprop: the same blocks as one, trained end to end by the last one's class head"),
    ] = "forward-forward"
    dims: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MOST_UNITS)], ...],
        Meta(
            min_length=2,
            max_length=MOST_LAYERS + 1,
            description="input features (labels appended not counted; 0: those that the data have), then the width of "
            "each dense layer",
        ),
    ] = (64, 500, 500)
    blocks: Annotated[
        tuple[BlockConfig, ...],
        Meta(max_length=MOST_LAYERS, description="tables [[training.blocks]]: the network, in the place of dims"),
    ] = ()
    model: Annotated[
        str,
        Meta(
            description="package.module:function or file.py:function that returns the network as a list of blocks, in "
            "the place of blocks and dims"
        ),
    ] = ""
    model_options: Annotated[
        dict[str, Option | tuple[Option, ...]],
        Meta(description="keyword arguments of that function, as NAME=VALUE or NAME=1,2,3"),
    ] = field(default_factory=dict)
    inputs: Annotated[
        Literal["images", "tokens"],
        Meta(description="tokens: examples are rows of integers, of which each is to predict the next"),
    ] = "images"
    threads: Annotated[
        int, Meta(ge=1, le=1024, description="CPU threads of blocks whose bits may depend on their number")
    ] = 1

    @property
    def depth(self) -> int | None:
        """Number of blocks; None where only the model's function knows."""
        if self.method == "backprop":
            return 1
        if self.model:
            return None
        return len(self.blocks) or len(self.dims) - 1

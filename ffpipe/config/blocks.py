"""The fields of one block of a network, and of what its images go through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.config.optimizer import Optimizer

# The kind of block that is Forward-Forward's layer in closed form (learn/dense.py).
FF_DENSE = "ff-dense"
# Keyword arguments of a function, as a config can hold them.
Option = bool | int | float | str
Options = dict[str, Option]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Changes of training images, made anew at each step."""

    crop: Annotated[
        int, Meta(ge=0, description="pixels put around an image before a piece of its own size is cut out; 0: off")
    ] = 0
    padding: Annotated[Literal["zero", "reflect"], Meta(description="what crop puts around an image")] = "zero"
    flip: Annotated[bool, Meta(description="flip every second image, drawn by chance, from left to right")] = False
    cutout: Annotated[int, Meta(ge=0, description="side of a square hole at a random place; 0: off")] = 0


Schedule = Literal["constant", "hinton", "ff-py", "cosine", "onecycle", "steps"]


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of a network: a kind that ffpipe ships, its local objective and its optimiser."""

    # A word and not one of a list: the kinds are in learn/, which imports torch.
    kind: Annotated[str, Meta(description="name of a kind of block (ffpipe/learn/kinds.py)")]
    options: Annotated[Options, Meta(description="keyword arguments of the kind")] = field(default_factory=dict)
    objective: Annotated[
        Literal["", "goodness", "class-head"],
        Meta(
            description="what the block learns by; goodness: pairs of rows, whose loss is training.objective; "
            "class-head: the labels; empty: goodness where there are negatives, else class-head"
        ),
    ] = ""
    objective_options: Annotated[Options, Meta(description="keyword arguments of the objective")] = field(
        default_factory=dict
    )
    optimizer: Annotated[Optimizer | None, Meta(description="none: training.optimizer")] = None
    schedule: Annotated[Literal["", Schedule], Meta(description="empty: training.schedule")] = ""
    first_epoch: Annotated[int, Meta(ge=0, description="epochs before which the block only passes rows on")] = 0
    last_epoch: Annotated[int, Meta(ge=0, description="epoch after which it only passes rows on; 0: the end")] = 0
    keep: Annotated[str, Meta(description="name under which later blocks find the output of this one")] = ""
    use: Annotated[
        tuple[str, ...], Meta(description="names of kept outputs that the block gets as further arguments")
    ] = ()
    hand_on: Annotated[
        Literal["", "before", "after"], Meta(description="as training.hand_on, which it is where empty")
    ] = ""

"""Shapes and dtypes of the weights and buffers of a block, which it has from its start: whoever reads a snapshot makes
the block anew, and copies into what it has then."""

from __future__ import annotations

from ffpipe.learn.block import Block
from ffpipe.learn.outline import Outline
from ffpipe.storage.checkpoint import TensorSpec
from ffpipe.system.errors import RunFailed

Shapes = dict[str, TensorSpec]


def shapes_of(block: Block) -> Shapes:
    """Return what a block has now, by name; nothing of one that reads snapshots in a way of its own."""
    # One that is read in its own way may well have other tensors than at first, and knows what to do with them.
    if type(block).set_weights is not Block.set_weights:
        return {}
    return {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in block.state_dict(keep_vars=True).items()}


def refuse_other_shapes(outline: Outline, first: Shapes, now: Shapes, step: int) -> None:
    """Refuse a block that has other tensors now, after a step, than it had at first. Raises RunFailed."""
    for name in first | now:
        was, found = first.get(name), now.get(name)
        if was != found:
            raise RunFailed(
                f"{outline} had {_described(name, was)} when it was made and has {_described(name, found)} after step "
                f"{step}: a snapshot is read into a new block, so make what it keeps with its last shape at once"
            )


def _described(name: str, spec: TensorSpec | None) -> str:
    return f"no {name!r}" if spec is None else f"{name!r} as {str(spec.dtype).removeprefix('torch.')} {spec.shape}"

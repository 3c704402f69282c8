"""Results of the methods of a block, held against what they must be. A block may be a user's, and so its objective.

Each function raises UserError with a line that says what came and what would be right; who calls them names the block.
"""

from __future__ import annotations

from torch import Tensor

from ffpipe.learn.block import Block
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.description import described
from ffpipe.system.errors import UserError


def scored(made: object, block: Block, rows: int, network: Blueprint) -> tuple[Tensor, Tensor | None]:
    """Return what `score` returned for so many rows."""
    if not isinstance(made, tuple) or len(made) != 2:
        raise UserError(f"score returned {described(made)}: return the rows that are handed on, and scores or None")
    out, scores = made
    if not isinstance(out, Tensor) or out.shape != (rows, *block.outputs.shape):
        raise UserError(
            f"it makes {described(out)} of {rows} rows in evaluation mode: make {(rows, *block.outputs.shape)}, as in "
            "training mode"
        )
    if scores is None:
        return out, None
    training, labels = network.training, network.labels.shape
    shape = (rows,) if training.contrasts else (rows, *labels, network.takes.classes)
    if not isinstance(scores, Tensor) or scores.shape != shape:
        what = "the goodness of each row" if training.contrasts else "a number for each class"
        raise UserError(f"score returned {described(scores)} for {rows} rows: return {shape}, {what}, or None")
    return out, scores

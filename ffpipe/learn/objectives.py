"""Local objectives: what a block minimises on its own output, and what that output says of the answer."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ffpipe.learn.description import described
from ffpipe.learn.spec import PLAIN, RowLayout
from ffpipe.system.errors import UserError


class Learned(NamedTuple):
    """Figures of a minibatch from before the update, summed over its examples (or pairs), as 0-dimensional tensors.

    An objective returns a `loss` that can be differentiated; its mean over the minibatch is what is minimised.
    """

    loss: Tensor
    errors: Tensor  # examples that the block alone gets wrong, or pairs whose negative row has the higher goodness
    logistic_errors: Tensor | None = None  # pairs whose negative row is more probably positive; dense layers count them


def as_learned(made: object, where: str) -> Learned:
    """Return what an objective, or a block, made of a minibatch. Raises UserError, which names it as `where`, for
    anything else than Learned of 0-dimensional tensors."""
    came = described(made)
    if isinstance(made, Learned):
        figures = made[:2] if made.logistic_errors is None else made
        if all(isinstance(each, Tensor) and not each.dim() for each in figures):
            return made
        came = f"Learned of {' and '.join(map(described, figures))}"
    raise UserError(
        f"{where} returned {came}: return ffpipe.Learned(loss, errors), sums over the minibatch as 0-dimensional "
        "tensors"
    )


class Objective(nn.Module):
    """A local objective. It may own parameters (a head), which are trained with the block.

    roles: the rows that it learns from, `spec.PAIRS` or `spec.PLAIN`. undivided: why its loss is not a sum over
    examples, each by itself, in words that follow its name; "" where it is.
    """

    roles: tuple[str, ...] = PLAIN
    undivided: str = ""

    @property
    def is_silent(self) -> bool:
        """True where it never says anything of the answer: it has no `score` of its own."""
        return type(self).score is Objective.score

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        """Judge the block's output h (layout.learning_rows, ...) with labels (layout.batch, ...) int64; None
        where the run has negatives.

        Sums over examples (`threads.total`), of which one of tokens counts as the mean over its positions. h may be
        bfloat16: a loss is computed from `precision.wide`. First weights come from torch's generator, which is seeded.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def score(self, h: Tensor) -> Tensor | None:
        """Return what each row of h says of the answer: goodness (n,), logits (n, classes), or of token rows
        (n, tokens, classes); None where it says nothing.

        Evaluations report the cross-entropy of logits as the block's loss, and read-out `sum` adds up those of blocks.
        """
        return None

    def positive_loss(self, scores: Tensor) -> Tensor | None:
        """Return the loss of positive rows, as `Block.positive_loss`."""
        return None

    def hand_on(self, h: Tensor) -> Tensor:
        """Return what the next block gets of h."""
        return h

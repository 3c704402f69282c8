"""Counts what an evaluation finds, batch by batch: of read-outs, and without negatives of every block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffpipe.config.schema import Training
from ffpipe.pipeline.packet import LABELS, LOSS, SCORE, WRONG, Tensors
from ffpipe.telemetry.report import BLOCK, Evaluation

LAST, SUM = "last", "sum"


def judged(said: Tensors, scores: Tensor | None, labels: Tensor) -> None:
    """Add what one block gets wrong by itself, and its loss, to what those before it have in a message.

    scores: (n, classes), or of tokens (n, T, classes), or None for a block that says nothing, which counts as NaN.
    labels: (n,) or (n, T). An example of tokens counts as the mean over its positions.
    """
    if scores is None:
        wrong = loss = torch.full((1,), torch.nan, dtype=torch.float64, device=labels.device)
    else:
        each = 1 if labels.dim() == 1 else labels.shape[1]
        wrong = ((scores.argmax(-1) != labels).sum().double() / each).view(1)
        found = cross_entropy(scores.flatten(0, -2).double(), labels.flatten(), reduction="none")
        loss = (found.sum() / each).view(1)
    for name, more in ((WRONG, wrong), (LOSS, loss)):
        said[name] = torch.cat([said[name], more]) if name in said else more


class Tally:
    """The sums of one evaluation so far."""

    def __init__(self) -> None:
        self._examples = 0
        self._goodness: int | None = None
        self._softmax: int | None = None
        self._sum: int | None = None
        self._blocks: Tensor | None = None  # (2, blocks): wrong examples, and losses

    def add(self, examples: int, said: Tensors, logits: Tensor | None, training: Training) -> None:
        """Count one batch. said: labels and sums over all blocks. logits: of the linear read-out, if there is one."""
        labels = said[LABELS][0]
        self._examples += examples
        if logits is not None:
            self._softmax = (self._softmax or 0) + int((logits.argmax(1) != labels).sum())
        if training.contrasts:
            if SCORE in said:
                answers = said[SCORE].view(examples, -1).argmax(1)
                self._goodness = (self._goodness or 0) + int((answers != labels).sum())
            return
        if SCORE in said:
            self._sum = (self._sum or 0) + int((said[SCORE].argmax(1) != labels).sum())
        both = torch.stack([said[WRONG], said[LOSS]]).cpu()
        self._blocks = both if self._blocks is None else self._blocks + both

    def close(self, step: int, split: str) -> Evaluation:
        """What it came to; the next evaluation begins anew."""
        count = self._examples
        errors, losses = {}, {}
        if self._blocks is not None:
            wrong, loss = ([None if v != v else v / count for v in row] for row in self._blocks.tolist())
            errors = {LAST: wrong[-1], SUM: None if self._sum is None else self._sum / count}
            errors |= {f"{BLOCK}{index}": each for index, each in enumerate(wrong)}
            losses = {f"{BLOCK}{index}": each for index, each in enumerate(loss)}
        made = Evaluation(
            step,
            split,
            count,
            None if self._goodness is None else self._goodness / count,
            None if self._softmax is None else self._softmax / count,
            errors,
            losses,
        )
        self.__init__()  # type: ignore[misc]  # begin anew
        return made

"""Counts what an evaluation finds, batch by batch: of read-outs, and without negatives of every block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffpipe.config.schema import Training
from ffpipe.pipeline.packet import LABELS, LOSS, SCORE, WRONG, Tensors
from ffpipe.telemetry.report import BLOCK, Evaluation

SOFTMAX, GOODNESS, LAST, SUM = "softmax", "goodness", "last", "sum"


def add_block(said: Tensors, index: int, scores: Tensor | None, labelled: int, training: Training) -> None:
    """Add what a block says of an evaluation's rows to what those before it have said.

    scores: (rows, ...) or None where it says nothing. labelled: how many of the rows, the first, carry a label. Without
    negatives each block is judged too: what it gets wrong by itself, and its loss, NaN where it says nothing.
    """
    labels = said[LABELS]
    if training.contrasts:
        scores = scores[:labelled] if labelled and scores is not None else None
    else:
        _judge(said, scores, labels[0])
    if scores is not None and labels.dim() == 2 and index >= training.goodness_from:
        said[SCORE] = said[SCORE] + scores if SCORE in said else scores


def _judge(said: Tensors, scores: Tensor | None, labels: Tensor) -> None:
    """Count errors. scores: (n, classes), or of tokens (n, T, classes). labels: (n,) or (n, T). An example of tokens
    counts as the mean over its positions."""
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
    """The sums of one evaluation so far. Those of a read-out that the network lacks are None."""

    def __init__(self) -> None:
        self._examples = 0
        self._wrong: dict[str, int] = {}  # by read-out
        self._blocks: Tensor | None = None  # (2, blocks): wrong examples, and losses

    def add(self, examples: int, said: Tensors, logits: Tensor | None, training: Training) -> None:
        """Count one batch. said: labels and sums over all blocks. logits: of the linear read-out, if there is one."""
        labels = said[LABELS][0]
        self._examples += examples
        if logits is not None:
            self._count(SOFTMAX, logits, labels)
        if SCORE in said:
            scores = said[SCORE].view(examples, -1) if training.contrasts else said[SCORE]
            self._count(GOODNESS if training.contrasts else SUM, scores, labels)
        if not training.contrasts:
            both = torch.stack([said[WRONG], said[LOSS]]).cpu()
            self._blocks = both if self._blocks is None else self._blocks + both

    def _count(self, readout: str, scores: Tensor, labels: Tensor) -> None:
        self._wrong[readout] = self._wrong.get(readout, 0) + int((scores.argmax(1) != labels).sum())

    def close(self, step: int, split: str) -> Evaluation:
        """Give what it came to, as shares of the examples."""
        count, losses = self._examples, {}
        share = {readout: wrong / count for readout, wrong in self._wrong.items()}
        errors: dict[str, float | None] = {}
        if self._blocks is not None:
            wrong, loss = ([None if v != v else v / count for v in row] for row in self._blocks.tolist())
            errors = {LAST: wrong[-1], SUM: share.get(SUM)}
            errors |= {f"{BLOCK}{index}": each for index, each in enumerate(wrong)}
            losses = {f"{BLOCK}{index}": each for index, each in enumerate(loss)}
        return Evaluation(step, split, count, share.get(GOODNESS), share.get(SOFTMAX), errors, losses)

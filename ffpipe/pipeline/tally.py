"""Counts what an evaluation finds, batch by batch: of read-outs and of every block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffpipe.config.schema import Training
from ffpipe.learn.block import Block
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.threads import total
from ffpipe.pipeline.packet import LABELS, LOSS, SCORE, WRONG, Tensors
from ffpipe.telemetry.report import BLOCK, GOODNESS, LAST, SOFTMAX, SUM, Evaluation

# The step of a loss. A double holds 2^53 of them: enough for ten million examples with losses of a hundred.
STEP = 2.0**-22


def add_block(said: Tensors, block: Block, scores: Tensor | None, labelled: int, network: Blueprint) -> None:
    """Add what a block says of an evaluation's rows to what those before it have said.

    scores: (rows, ...) or None where it says nothing. labelled: how many of the rows, the first, carry a label. Each
    block is judged too: by its loss on positive rows, and without negatives by its loss and what it gets wrong by
    itself; NaN where it says nothing.
    """
    labels, training, at_once = said[LABELS], network.training, network.examples_at_once
    if training.contrasts:
        positive = None if scores is None else _positive(scores, labels[0], labelled, training)
        _judge_positive(said, block, positive, at_once)
        # The other rows are for the linear read-out, whose neutral label says nothing of a class.
        scores = scores[:labelled] if labelled and scores is not None else None
    else:
        _judge(said, scores, labels[0], at_once)
    if scores is not None and labels.dim() == 2 and block.index >= training.goodness_from:
        said[SCORE] = said[SCORE] + scores if SCORE in said else scores


def _judge(said: Tensors, scores: Tensor | None, labels: Tensor, at_once: int) -> None:
    """Count errors. scores: (n, classes), or of tokens (n, T, classes). labels: (n,) or (n, T). An example of tokens
    counts as the mean over its positions, which `Tally` makes of the sum."""
    if scores is None:
        _append(said, WRONG, None, at_once)
        _append(said, LOSS, None, at_once)
    else:
        _append(said, WRONG, scores.argmax(-1) != labels, at_once)
        # As many at a time as pass through a block, however many an item has, so that a chunk changes no bit.
        pieces = zip(scores.split(at_once), labels.split(at_once), strict=True)
        losses = [cross_entropy(s.flatten(0, -2).double(), n.flatten(), reduction="none") for s, n in pieces]
        _append(said, LOSS, torch.cat(losses).view(labels.shape), at_once)


def _positive(scores: Tensor, labels: Tensor, labelled: int, training: Training) -> Tensor | None:
    """Return what a block says of positive rows (n,): of those under their right labels, or as they are where training
    has them without. None where no row is such."""
    if not training.labelled:
        return scores[len(scores) - len(labels) :]
    return scores[:labelled].view(len(labels), -1).gather(1, labels.unsqueeze(1)).squeeze(1) if labelled else None


def _judge_positive(said: Tensors, block: Block, scores: Tensor | None, at_once: int) -> None:
    """Add the loss of positive rows (n,)."""
    pieces = () if scores is None or scores.dim() != 1 else scores.split(at_once)
    # The last few numbers of a vector may come to other bits than they do in the middle of a longer one.
    found = [loss for piece in pieces if (loss := block.positive_loss(piece)) is not None]
    _append(said, LOSS, torch.cat(found) if found else None, at_once)


def _append(said: Tensors, name: str, values: Tensor | None, at_once: int) -> None:
    """Add the sums of values (n, ...), one for each portion of examples, to those of the blocks before; NaN where a
    block says nothing.

    Values are rounded to whole steps, which doubles add up exactly, up to 2^53 of them. Beyond, sums of portions are
    still the same however these are batched, as whole batches have the same portions; `Tally` adds them up in order.
    """
    if values is None:
        values = torch.full_like(said[LABELS][0], torch.nan, dtype=torch.float64)
    portions = (values.double() / STEP).round_().split(at_once)
    more = torch.stack([total(portion) for portion in portions]).mul_(STEP).view(1, -1)
    said[name] = torch.cat([said[name], more]) if name in said else more


class Tally:
    """The sums of one evaluation so far. Those of a read-out that the network lacks are None."""

    def __init__(self) -> None:
        self._examples, self._positions = 0, 1
        self._wrong: dict[str, int] = {}  # by read-out
        self._wrong_by: Tensor | None = None  # (blocks,): wrong examples, without negatives
        self._losses: Tensor | None = None  # (blocks,)

    def add(self, examples: int, said: Tensors, logits: Tensor | None, training: Training) -> None:
        """Count one batch. said: labels and sums over all blocks. logits: of the linear read-out, if there is one."""
        labels = said[LABELS][0]
        self._examples += examples
        # For the end, where sums are divided: quotients of a batch would not be whole numbers of steps.
        self._positions = 1 if labels.dim() == 1 else labels.shape[1]
        if logits is not None:
            self._count(SOFTMAX, logits, labels)
        if SCORE in said:
            scores = said[SCORE].view(examples, -1) if training.contrasts else said[SCORE]
            self._count(GOODNESS if training.contrasts else SUM, scores, labels)
        self._losses = _sum(self._losses, said.get(LOSS))
        self._wrong_by = _sum(self._wrong_by, said.get(WRONG))

    def _count(self, readout: str, scores: Tensor, labels: Tensor) -> None:
        self._wrong[readout] = self._wrong.get(readout, 0) + int((scores.argmax(1) != labels).sum())

    def close(self, step: int, split: str) -> Evaluation:
        """Give what it came to, as shares of the examples."""
        count = self._examples
        share = {readout: wrong / count for readout, wrong in self._wrong.items()}
        errors: dict[str, float | None] = {}
        losses = _of_each(self._losses, count * self._positions)
        if self._wrong_by is not None:
            wrong = _of_each(self._wrong_by, count * self._positions)
            errors = {LAST: list(wrong.values())[-1], SUM: share.get(SUM), **wrong}
        elif all(each is None for each in losses.values()):  # all compare pairs
            losses = {}
        return Evaluation(step, split, count, share.get(GOODNESS), share.get(SOFTMAX), errors, losses)


def _sum(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Add what a batch says of the blocks, (blocks, portions), portion after portion."""
    for portion in () if more is None else more.cpu().unbind(1):
        before = portion if before is None else before + portion
    return before


def _of_each(sums: Tensor | None, count: int) -> dict[str, float | None]:
    """Return the mean over examples of each block; None where it said nothing."""
    values = [] if sums is None else sums.tolist()
    return {f"{BLOCK}{index}": None if v != v else v / count for index, v in enumerate(values)}

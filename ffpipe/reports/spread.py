"""Spread of the numbers by which a block decides: goodness of its rows, or margins of its class head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.learn.block import Block
from ffpipe.learn.contrast import ThresholdLoss
from ffpipe.learn.dense import FFDense
from ffpipe.learn.goodness import GoodnessContrast
from ffpipe.learn.local import LocalBlock
from ffpipe.reports.network import Trained, chosen
from ffpipe.system.errors import UserError

# Pairs or examples that are looked at.
MOST_ROWS = 600
MOST_TOKENS = 15_000

Numbers = NDArray[np.float64]


class Spread(NamedTuple):
    """Numbers of one block for two kinds of rows. wrong: share that it decides wrongly of pairs, or of the second kind
    where each row counts by itself. border: the number by which it decides, if there is one."""

    block: int
    name: str
    first: Numbers
    second: Numbers
    wrong: float
    border: float | None


class Spreads(NamedTuple):
    """Spreads of all blocks that say anything. number: what is spread. kinds: of rows, first and second."""

    number: str
    kinds: tuple[str, str]
    blocks: tuple[Spread, ...]


@torch.no_grad()
def spreads(trained: Trained) -> Spreads:
    """Look at every block. Raises UserError where none says anything of the answer."""
    found = _goodness(trained) if trained.training.contrasts else _margins(trained)
    if not found.blocks:
        raise UserError("no block says anything of the answer: they learn by losses of the user's own")
    # Quantiles and histograms are of finite numbers.
    for each in found.blocks:
        if not (np.isfinite(each.first).all() and np.isfinite(each.second).all()):
            raise UserError(f"block {each.block} gives numbers that are not finite: the run has diverged")
    return found


def _goodness(trained: Trained) -> Spreads:
    """Compute the goodness of rows of the newest minibatches."""
    batch = trained.training.batch_size
    most = max(1, min(MOST_ROWS, trained.rows_at_once // 2))  # rows of both kinds pass together
    pairs = [rows.split(batch) for rows, _ in _newest(trained, most)]
    positive, negative = (torch.cat(rows)[:most] for rows in zip(*pairs, strict=True))
    blocks = []
    for block, _, said in trained.network.passed(torch.cat([positive, negative])):
        if said is None or said.dim() != 1:
            continue
        first, second = (part.double().numpy() for part in said.split(len(positive)))
        name = trained.job.network.outlines[block.index].name
        wrong = float((second > first).mean())
        blocks.append(Spread(block.index, name, first, second, wrong, _threshold(block)))
    return Spreads("goodness", ("positive", "negative"), tuple(blocks))


def _newest(trained: Trained, most: int) -> list[tuple[Tensor, Tensor]]:
    """Make rows and labels of as many of the newest minibatches as have `most` examples."""
    minibatches = -(-most // trained.training.batch_size)
    step = trained.saved.manifest.step
    return [trained.learning_rows(each) for each in range(max(0, step - minibatches), max(1, step))]


def _threshold(block: Block) -> float | None:
    """Return the goodness above which a row counts as positive; None where pairs are compared."""
    contrast = None
    if isinstance(block, FFDense):
        contrast = block._objective
    elif isinstance(block, LocalBlock) and isinstance(block.objective, GoodnessContrast):
        contrast = block.objective.contrast
    return contrast.threshold if isinstance(contrast, ThresholdLoss) else None


def _margins(trained: Trained) -> Spreads:
    """Compute the score of the right class less the best of the others, of training and of test examples."""
    splits, training = trained.job.splits, trained.training
    most = max(1, min(MOST_ROWS, trained.rows_at_once // 2))
    if training.inputs == "tokens":
        most = max(1, min(most, MOST_TOKENS // trained.job.network.inputs.size))
    rows, labels = zip(*_plain(trained, most), strict=True)
    blocks = []
    for block, _, said in trained.network.passed(torch.cat(rows)):
        if said is not None and said.dim() == labels[0].dim() + 1:
            parts = said.split([len(each) for each in rows])
            first, second = (margins(part, right).numpy() for part, right in zip(parts, labels, strict=True))
            name = trained.job.network.outlines[block.index].name
            blocks.append(Spread(block.index, name, first, second, float((second <= 0).mean()), 0.0))
    return Spreads("margin", ("training", "test" if len(splits.test) else "training"), tuple(blocks))


def _plain(trained: Trained, most: int) -> list[tuple[Tensor, Tensor]]:
    """Make rows of the newest minibatches as they are trained on, and of test examples, with their labels."""
    splits = trained.job.splits
    rows, labels = (torch.cat(parts)[:most] for parts in zip(*_newest(trained, most), strict=True))
    tested = [trained.feeder.evaluation(splits.test, int(row), 1) for row in chosen(splits.test, most)]
    if not tested:
        return [(rows, labels), (rows, labels)]
    return [(rows, labels), tuple(torch.cat(parts) for parts in zip(*tested, strict=True))]  # type: ignore[list-item]


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the score of the right class less the best of the others.

    scores: (n, ..., classes). labels: (n, ...). Returns (n times ...,) float64.
    """
    scores, labels = scores.double().flatten(0, -2), labels.flatten().unsqueeze(1)
    right = scores.gather(1, labels).squeeze(1)
    others = scores.scatter(1, labels, -torch.inf).amax(1)
    return right - others

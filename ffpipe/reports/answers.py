"""Answers of a trained network to test examples: which class is taken for which, and where they are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.data import folder
from ffpipe.data.examples import Examples
from ffpipe.reports.network import BYTES_AT_ONCE, Trained, chosen
from ffpipe.reports.parts import attempt
from ffpipe.reports.rows import Images, as_pictures
from ffpipe.reports.writing import symbols_of
from ffpipe.system.errors import UserError, escaped
from ffpipe.system.files import expanded
from ffpipe.telemetry.report import GOODNESS

# Mistakes that are shown, and tokens that are looked at.
MOST_MISTAKES = 24
MOST_TOKENS = 25_000
# Classes of which a table of all by all is made.
MOST_CLASSES = 1000
# Stands above the files of examples that have one each.
PICTURE = "picture"


@dataclass(frozen=True)
class Mistake:
    """An example of the test split that the network gets wrong. index: its place in the split. share: the probability
    of the answer, or by goodness its lead over the right one. second: the next answer."""

    index: int
    right: int
    answer: int
    share: float
    second: int


class Answers(NamedTuple):
    """All answers. counts: (classes, classes), rows by the right class, columns by the answer. mistakes:
    the surest first. tested: examples that were looked at, of `available`. by_goodness: shares are leads."""

    split: str
    readout: str
    names: tuple[str, ...]
    counts: NDArray[np.int64]
    mistakes: tuple[Mistake, ...]
    tested: int
    available: int
    by_goodness: bool

    @property
    def error(self) -> float:
        return 1.0 - float(np.trace(self.counts)) / int(self.counts.sum())


def answers(trained: Trained, most: int) -> Answers:
    """Find the network's answers to at most so many test examples. Raises UserError."""
    splits, takes = trained.job.splits, trained.saved.network.takes
    classes = takes.classes
    split, name = (splits.test, "test") if len(splits.test) else (splits.validation, "validation")
    if not len(split):
        raise UserError("there are no test examples")
    if classes > MOST_CLASSES:
        raise UserError(f"there are {classes:,} classes, too many for a table of all by all")
    # A sequence has an answer at each of its places.
    if trained.training.inputs == "tokens":
        most = max(1, min(most, MOST_TOKENS // trained.job.network.inputs.size))
    # All of them are in memory at once, in float32.
    rows = chosen(split, min(most, max(1, BYTES_AT_ONCE // (4 * split.features))))
    examples, labels = trained.saved.examples(split, rows)
    scores = trained.scores(examples)
    answered = scores.argmax(-1)
    pairs = (labels.flatten() * classes + answered.flatten()).numpy()
    counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    by_goodness = trained.saved.readout == GOODNESS
    tokens = labels.dim() > 1
    mistakes = () if tokens else _mistakes(scores, labels, rows, by_goodness)
    names = tuple(map(takes.name, range(classes)))
    if tokens and (say := attempt(lambda: symbols_of(trained)).value):
        names = tuple(escaped(piece) for symbol in range(classes) for piece in say([symbol]))  # a line break is seen
    return Answers(name, trained.saved.readout, names, counts, mistakes, len(rows), len(split), by_goodness)


def _mistakes(scores: Tensor, labels: Tensor, rows: NDArray[np.int64], by_goodness: bool) -> tuple[Mistake, ...]:
    wrong = (scores.argmax(1) != labels).nonzero().flatten()
    scores, labels = scores[wrong].double(), labels[wrong]
    # As answers are counted: of several equal scores `topk` may take another first.
    first = scores.argmax(1)
    second = scores.scatter(1, first.unsqueeze(1), -torch.inf).argmax(1)
    at = torch.arange(len(wrong))
    leads = scores[at, first] - scores[at, labels]
    surety = leads if by_goodness else scores.softmax(1)[at, first]
    order = surety.argsort(descending=True)[:MOST_MISTAKES].tolist()
    return tuple(
        Mistake(int(rows[wrong[i]]), int(labels[i]), int(first[i]), float(surety[i]), int(second[i])) for i in order
    )


def pictures_of(trained: Trained, found: Answers) -> Images:
    """Make pictures of the mistakes. Raises UserError where examples are not pictures."""
    split, rows = _wrong(trained, found)
    return as_pictures(split.images(rows), split.shape)


def origins(trained: Trained, found: Answers) -> tuple[str, tuple[str, ...]]:
    """Find the mistakes in the data that were given. Returns what they are named by, and the name of each: the path of
    a picture below the folder of its part, or else the row of the training or test part."""
    split, rows = _wrong(trained, found)
    data, stored = trained.job.config.training.data, split.stored_rows(rows).tolist()
    part = "training" if split.stored.path == trained.job.splits.train.stored.path else "test"
    if data.source == "folder":
        root = expanded((data.train if part == "training" else data.test)[0])
        files, _ = folder.pictures_of(root, "training.data")
        if len(files) == len(split.stored):  # else it has changed since it was read
            return PICTURE, tuple(str(files[row].relative_to(root)) for row in stored)
    return f"row of the {part} part", tuple(map(str, stored))


def _wrong(trained: Trained, found: Answers) -> tuple[Examples, NDArray[np.int64]]:
    """Return the split that was looked at, and the places of the mistakes in it."""
    splits = trained.job.splits
    split = splits.test if found.split == "test" else splits.validation
    return split, np.array([mistake.index for mistake in found.mistakes], np.int64)

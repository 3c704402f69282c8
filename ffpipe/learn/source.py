"""The source: turns training examples into the rows that the first layer trains on.

A minibatch is one array of B rows for each role: positive (right label), negative (wrong label) and,
where a head is trained, neutral rows. Neutral rows may be of a later minibatch than the pairs that they go with,
so that the head's prediction for it is back by the time its negatives are drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import Splits
from ffpipe.learn.jitter import jittered
from ffpipe.learn.labels import LabelCode
from ffpipe.learn.negatives import Minibatch, make_negatives
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.rows import normalize_rows_


class Source:
    """Makes the rows of any step or evaluation batch; a function of the config, the data and the predictions."""

    def __init__(self, training: Training, splits: Splits) -> None:
        train = splits.train
        self.train = train
        self.batch = training.batch_size
        self.sampler = Sampler(len(train), training.batch_size, training.seed)
        self.labels = LabelCode(training.labels, train.features, train.classes, training.label_strength)
        self._training = training
        self._dtype = PRECISIONS[training.precision].weights
        self._negatives = make_negatives(training, splits, self._images)

    def pairs(self, step: int, prediction: NDArray[np.float32] | None, out: Tensor) -> Tensor:
        """Positive rows of minibatch `step` into out[:B], negative ones into out[B:2B]; out is (2B, width).

        prediction: the head's probabilities (B, classes) for this minibatch, where negatives ask for them.
        Returns the labels of the positive rows, (B,) int64.
        """
        rows = self.sampler.rows(step)
        images, right = self._images(self.train, rows, step), self.train.labels(rows)
        negative = self._negatives(Minibatch(step, rows, images, right), prediction)
        self.labels.write(out[: self.batch], images, torch.from_numpy(right))
        self.labels.write(out[self.batch :], negative.images, torch.from_numpy(negative.labels))
        normalize_rows_(out, self._training.normalization)
        return torch.from_numpy(right)

    def neutral(self, step: int, out: Tensor) -> Tensor:
        """Neutral rows of minibatch `step` into out (B, width); returns their labels (B,) int64."""
        rows = self.sampler.rows(step)
        self.labels.write(out, self._images(self.train, rows, step), None)
        normalize_rows_(out, self._training.normalization)
        return torch.from_numpy(self.train.labels(rows))

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows first .. first + count - 1 of a split under every label and, for the head, the neutral one.

        Without labels, the images alone. Returns (count * classes [+ count], width) normalised rows and (count,)
        int64 labels.
        """
        rows = np.arange(first, first + count)
        images = torch.from_numpy(split.images(rows)).to(self._dtype)
        parts = [self.labels.every_label(images)] if self._training.labelled else []
        if self._training.head:
            parts.append(self.labels.neutral(images))
        return normalize_rows_(torch.cat(parts), self._training.normalization), torch.from_numpy(split.labels(rows))

    def _images(self, split: Examples, rows: NDArray[np.int64], step: int) -> Tensor:
        """Training images as minibatch `step` has them."""
        images = torch.from_numpy(split.images(rows)).to(self._dtype)
        pixels = self._training.jitter
        return jittered(images, split.shape, pixels, self._training.seed, step) if pixels else images

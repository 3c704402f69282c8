"""The feeder: turns examples into the rows that the first block trains on. A function of the config, the data, the step
and, where negatives ask for them, of predictions.

A minibatch has B rows of each role. Forward-Forward: positive (right label), negative (wrong label) and, where a
read-out is trained, neutral rows, which may be of a later minibatch than the pairs that they go with, so that the
prediction for it is back by the time its negatives are drawn. Without negatives: the examples as they are.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import Splits
from ffpipe.learn.augmentation import Augmentation
from ffpipe.learn.labels import LabelCode
from ffpipe.learn.negatives import Minibatch, make_negatives
from ffpipe.learn.normalization import Normalization
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.rows import normalize_rows_
from ffpipe.learn.spec import RowSpec

Predictions = NDArray[np.float32]


class Feeder(Protocol):
    """Makes the rows of any step or evaluation batch, in host memory."""

    inputs: RowSpec
    labels: RowSpec

    def learning(self, step: int, prediction: Predictions | None, out: Tensor) -> Tensor:
        """The rows of minibatch `step` that blocks learn from into out (rows, *inputs.shape).

        prediction: the read-out's probabilities (B, classes) for this minibatch, where negatives ask for them. Returns
        the labels of the examples, (B, *labels.shape) int64.
        """

    def passing(self, step: int, out: Tensor) -> Tensor:
        """The neutral rows of minibatch `step` into out (B, *inputs.shape); returns their labels (B,) int64."""

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows of examples first .. first + count - 1 of a split, and their labels (count, *labels.shape) int64."""


class Images:
    """Reads examples as rows of numbers, as they are at a step: jitter, crop and flip, normalisation, cutout."""

    def __init__(self, training: Training, shape: tuple[int, ...]) -> None:
        self._training, self._shape = training, shape
        self._dtype = PRECISIONS[training.precision].weights
        each = training.augmentation
        self._augmentation = Augmentation(
            crop=each.crop, padding=each.padding, flip=each.flip, cutout=each.cutout, jitter=training.jitter
        )
        self._moves = bool(each.crop or each.flip or training.jitter)
        self._normalization = Normalization(training.mean, training.deviation) if training.standardize else None

    def plain(self, split: Examples, rows: NDArray[np.int64]) -> Tensor:
        """(n, features), as they are evaluated."""
        return self.normalized(torch.from_numpy(split.images(rows)).to(self._dtype))

    def normalized(self, images: Tensor) -> Tensor:
        """Images (n, features) by mean and deviation, where the config wants that."""
        return images if self._normalization is None else self._normalization.apply(images, self._shape)

    def at_step(self, split: Examples, rows: NDArray[np.int64], step: int) -> Tensor:
        """(n, features), as minibatch `step` has them."""
        images = torch.from_numpy(split.images(rows)).to(self._dtype)
        seed = self._training.seed
        if self._moves:
            images = self._augmentation.moved(images, self._shape, seed, step)
        images = self.normalized(images)
        return self._augmentation.cut(images, self._shape, seed, step) if self._augmentation.cutout else images


class ForwardForwardFeeder:
    """Positive, negative and neutral rows, each with its label in it."""

    def __init__(self, training: Training, splits: Splits, inputs: RowSpec) -> None:
        train = splits.train
        self.inputs, self.labels = inputs, RowSpec((), torch.int64)
        self._train, self._training, self._batch = train, training, training.batch_size
        self._sampler = Sampler(len(train), training.batch_size, training.seed)
        self._images = Images(training, train.shape)
        self._code = LabelCode(training.labels, train.features, train.classes, training.label_strength, train.shape)
        self._negatives = make_negatives(training, splits, self._images.at_step)

    def learning(self, step: int, prediction: Predictions | None, out: Tensor) -> Tensor:
        rows = self._sampler.rows(step)
        images, right = self._images.at_step(self._train, rows, step), self._train.labels(rows)
        negative = self._negatives(Minibatch(step, rows, images, right), prediction)
        flat = out.view(len(out), -1)
        self._code.write(flat[: self._batch], self._arranged(images), torch.from_numpy(right))
        self._code.write(flat[self._batch :], self._arranged(negative.images), torch.from_numpy(negative.labels))
        normalize_rows_(flat, self._training.normalization)
        return torch.from_numpy(right)

    def passing(self, step: int, out: Tensor) -> Tensor:
        rows = self._sampler.rows(step)
        flat = out.view(len(out), -1)
        self._code.write(flat, self._arranged(self._images.at_step(self._train, rows, step)), None)
        normalize_rows_(flat, self._training.normalization)
        return torch.from_numpy(self._train.labels(rows))

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Each image under every label and, for the read-out, the neutral one; without labels, the images alone."""
        rows = np.arange(first, first + count)
        made = labelled_rows(self._training, self._code, self._arranged(self._images.plain(split, rows)))
        return made.view(len(made), *self.inputs.shape), torch.from_numpy(split.labels(rows))

    def _arranged(self, images: Tensor) -> Tensor:
        return channels_first(images, self._train.shape) if len(self.inputs.shape) == 3 else images


class PlainFeeder:
    """The examples as they are: images (C, H, W), or rows of numbers."""

    def __init__(self, training: Training, splits: Splits, inputs: RowSpec) -> None:
        self.inputs, self.labels = inputs, RowSpec((), torch.int64)
        self._train = splits.train
        self._sampler = Sampler(len(splits.train), training.batch_size, training.seed)
        self._images = Images(training, splits.shape)

    def learning(self, step: int, prediction: Predictions | None, out: Tensor) -> Tensor:
        rows = self._sampler.rows(step)
        out.copy_(self._shaped(self._images.at_step(self._train, rows, step)))
        return torch.from_numpy(self._train.labels(rows))

    def passing(self, step: int, out: Tensor) -> Tensor:
        raise AssertionError("without negatives all rows are learned from")

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        rows = np.arange(first, first + count)
        return self._shaped(self._images.plain(split, rows)), torch.from_numpy(split.labels(rows))

    def _shaped(self, images: Tensor) -> Tensor:
        return channels_first(images, self._train.shape).view(len(images), *self.inputs.shape)


class TokenFeeder:
    """Rows of token ids (T + 1,): the first T are the input (T,), the last T what each is to predict."""

    def __init__(self, training: Training, splits: Splits, inputs: RowSpec) -> None:
        self.inputs, self.labels = inputs, inputs
        self._train = splits.train
        self._sampler = Sampler(len(splits.train), training.batch_size, training.seed)

    def learning(self, step: int, prediction: Predictions | None, out: Tensor) -> Tensor:
        ids = self._ids(self._train, self._sampler.rows(step))
        out.copy_(ids[:, :-1])
        return ids[:, 1:]

    def passing(self, step: int, out: Tensor) -> Tensor:
        raise AssertionError("without negatives all rows are learned from")

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        ids = self._ids(split, np.arange(first, first + count))
        return ids[:, :-1], ids[:, 1:]

    @staticmethod
    def _ids(split: Examples, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(split.raw(rows)).to(torch.int64)


def make_feeder(training: Training, splits: Splits, inputs: RowSpec) -> Feeder:
    """The feeder that the config asks for."""
    if training.contrasts:
        return ForwardForwardFeeder(training, splits, inputs)
    return (TokenFeeder if training.inputs == "tokens" else PlainFeeder)(training, splits, inputs)


def row_specs(training: Training, shape: tuple[int, ...], classes: int) -> tuple[RowSpec, RowSpec]:
    """One row of what a feeder makes of examples of a shape, and the label of one example."""
    products, label = PRECISIONS[training.precision].products, RowSpec((), torch.int64)
    if training.inputs == "tokens":
        tokens = RowSpec((math.prod(shape) - 1,), torch.int64)
        return tokens, tokens
    image = image_shape(shape) if len(shape) > 1 else shape
    if not training.contrasts:
        return RowSpec(image, products), label
    width = LabelCode(training.labels, math.prod(shape), classes, training.label_strength, shape).width
    flat = not (training.model or training.blocks) or training.labels == "append" or len(shape) < 2
    planes = classes if training.labels == "planes" else 0
    return RowSpec((width,) if flat else (image[0] + planes, *image[1:]), products), label


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) of an image that is stored as (height, width) or (height, width, channels)."""
    return (1, *shape) if len(shape) == 2 else (shape[-1], *shape[:-1])


def channels_first(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images (n, features) of `shape`, channels last, with their channels first; others as they are."""
    if len(shape) != 3:
        return images
    count = images.shape[0]
    return images.view(count, -1, shape[-1]).transpose(1, 2).reshape(count, -1)


def labelled_rows(training: Training, code: LabelCode, images: Tensor) -> Tensor:
    """Each image (n, features) under every label, then for a read-out under the neutral one, normalised."""
    kinds = [code.every_label] * training.labelled + [code.neutral] * training.head
    rows = torch.cat([kind(images) for kind in kinds])  # the parts are gone before the squares are made
    return normalize_rows_(rows, training.normalization)

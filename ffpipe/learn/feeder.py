"""The feeder: turns examples into the rows that the first block trains on. A function of the config, the data, the step
and, where negatives ask for them, of predictions.

A minibatch has B rows of each role. Forward-Forward: positive (right label), negative (wrong label) and, where a
read-out is trained, neutral rows, which may be of a later minibatch than the pairs that they go with, so that the
prediction for it is back by the time its negatives are drawn; or by turns (turns.py) positive or negative rows alone.
Without negatives: the examples as they are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import Splits
from ffpipe.learn.images import Images, channels_first, image_shape
from ffpipe.learn.labels import LabelCode
from ffpipe.learn.negatives import Minibatch, Probabilities, make_negatives
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.rows import normalize_inputs_
from ffpipe.learn.spec import NEGATIVE, POSITIVE, RowSpec
from ffpipe.learn.turns import turns_of
from ffpipe.system.errors import UserError

# Values that `refuse_other_ids` holds at a time, about as many.
IDS = 1 << 20


class Feeder:
    """The maker of the rows of any step or evaluation batch, in host memory."""

    def __init__(self, training: Training, splits: Splits, inputs: RowSpec) -> None:
        """inputs: one row of what the first block takes."""
        self.inputs, self._training, self._train = inputs, training, splits.train
        shuffles = training.data.order == "shuffled"
        self._sampler = Sampler(len(splits.train), training.batch_size, training.seed, shuffles=shuffles)
        self.turns = turns_of(training, splits)
        self._images = Images(training, splits.shape)

    def examples(self, step: int) -> NDArray[np.int64]:
        """Return the training examples of a step's minibatch, (B,)."""
        return self._sampler.rows(self.turns.minibatch(step))

    def learning(self, step: int, prediction: Probabilities | None, out: Tensor) -> Tensor:
        """Put the rows of step `step` that blocks learn from into out (rows, *inputs.shape).

        prediction: the read-out's probabilities (B, classes) for this minibatch, where negatives ask for them. Returns
        the labels of the examples, (B,) int64, or of tokens (B, T).
        """
        raise NotImplementedError

    def passing(self, step: int, out: Tensor) -> Tensor:
        """Put the neutral rows of minibatch `step` into out (B, *inputs.shape); returns their labels (B,) int64."""
        raise AssertionError("without negatives all rows are learned from")

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Give rows of examples first .. first + count - 1 of a split, and their labels, as `learning` does."""
        raise NotImplementedError

    def _shaped(self, images: Tensor) -> Tensor:
        """Return the images (n, features) with their channels first, where blocks take images."""
        return channels_first(images, self._train.shape) if len(self.inputs.shape) == 3 else images


class ForwardForwardFeeder(Feeder):
    """Positive, negative and neutral rows, each with its label in it."""

    def __init__(self, training: Training, splits: Splits, inputs: RowSpec) -> None:
        super().__init__(training, splits, inputs)
        train = splits.train
        sizes = (train.features, train.classes, training.label_strength, train.shape)
        self._code, self._read_code = LabelCode(training.labels, *sizes), LabelCode(training.read_labels, *sizes)
        self._negatives = make_negatives(training, splits, self._images.at_step)

    def learning(self, step: int, prediction: Probabilities | None, out: Tensor) -> Tensor:
        role, number, batch = self.turns.role(step), self.turns.minibatch(step), self._training.batch_size
        examples = self.examples(step)
        images, right = self._images.at_step(self._train, examples, step), self._train.labels(examples)
        flat = out.view(len(out), -1)
        # From both ends: of rows of one role alone, either is all there is.
        if role != NEGATIVE:
            self._code.write(flat[:batch], self._shaped(images), torch.from_numpy(right))
        if role != POSITIVE:
            negative = self._negatives(Minibatch(number, examples, images, right), prediction)
            self._code.write(flat[-batch:], self._shaped(negative.images), torch.from_numpy(negative.labels))
        normalize_inputs_(flat, self._training)
        return torch.from_numpy(right)

    def passing(self, step: int, out: Tensor) -> Tensor:
        examples = self._sampler.rows(step)
        flat = out.view(len(out), -1)
        self._code.write(flat, self._shaped(self._images.at_step(self._train, examples, step)), None)
        normalize_inputs_(flat, self._training)
        return torch.from_numpy(self._train.labels(examples))

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return each image under every label, then for a read-out under the neutral one; without labels, as it is."""
        rows, training = np.arange(first, first + count), self._training
        images = self._shaped(self._images.plain(split, rows))
        kinds = [self._read_code.every_label] * training.reads_goodness + [self._code.neutral] * training.head
        made = torch.cat([kind(images) for kind in kinds])  # the parts are gone before the squares are made
        normalize_inputs_(made, training)
        return made.view(len(made), *self.inputs.shape), torch.from_numpy(split.labels(rows))


class PlainFeeder(Feeder):
    """The examples as they are: images (C, H, W), or rows of numbers."""

    def learning(self, step: int, prediction: Probabilities | None, out: Tensor) -> Tensor:
        rows = self._sampler.rows(step)
        out.copy_(self._shaped(self._images.at_step(self._train, rows, step)).view_as(out))
        return torch.from_numpy(self._train.labels(rows))

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        rows = np.arange(first, first + count)
        images = self._shaped(self._images.plain(split, rows))
        return images.view(count, *self.inputs.shape), torch.from_numpy(split.labels(rows))


class TokenFeeder(Feeder):
    """Rows of token ids (T + 1,): the first T are the input (T,), the last T what each is to predict."""

    def learning(self, step: int, prediction: Probabilities | None, out: Tensor) -> Tensor:
        ids = self._ids(self._train, self._sampler.rows(step))
        out.copy_(ids[:, :-1])
        return ids[:, 1:]

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        ids = self._ids(split, np.arange(first, first + count))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()  # as rows lie in training

    @staticmethod
    def _ids(split: Examples, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(split.raw(rows)).to(torch.int64)


def refuse_other_ids(splits: Splits) -> None:
    """Refuse examples that are not rows of ids of the symbols that there are. Raises UserError."""
    at_once = IDS // splits.features + 1
    for name, part in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        for first in range(0, len(part), at_once):
            values = part.raw(np.arange(first, min(first + at_once, len(part))))
            others = values[(values < 0) | (values >= splits.classes) | (values % 1 != 0)]
            if others.size:
                raise UserError(
                    f"training.inputs is 'tokens', but the {name} part has the value {others[0]:g}: give whole numbers "
                    f"from 0 to {splits.classes - 1}, or --training.data.classes with the number of symbols"
                )


def make_feeder(training: Training, splits: Splits, inputs: RowSpec) -> Feeder:
    """Make the feeder that the config asks for."""
    if training.contrasts:
        return ForwardForwardFeeder(training, splits, inputs)
    return (TokenFeeder if training.inputs == "tokens" else PlainFeeder)(training, splits, inputs)


def row_specs(training: Training, shape: tuple[int, ...], classes: int) -> tuple[RowSpec, RowSpec]:
    """Return the spec of a row that a feeder makes of examples of a shape, and that of the label of one example."""
    products, label = PRECISIONS[training.precision].products, RowSpec((), torch.int64)
    if training.inputs == "tokens":
        tokens = RowSpec((math.prod(shape) - 1,), torch.int64)
        return tokens, tokens
    image = image_shape(shape) if len(shape) > 1 else shape
    # Rows without negatives are images even for dense layers, whose bodies flatten them (kinds.dense).
    if not training.contrasts:
        return RowSpec(image, products), label
    width = LabelCode(training.labels, math.prod(shape), classes, training.label_strength, shape).width
    dense = not (training.model or training.blocks) or (training.blocks and training.blocks[0].kind == FF_DENSE)
    # Labels behind the last pixel leave no image.
    flat = dense or training.labels == "append" or len(shape) < 2
    planes = classes if training.labels == "planes" else 0
    return RowSpec((width,) if flat else (image[0] + planes, *image[1:]), products), label

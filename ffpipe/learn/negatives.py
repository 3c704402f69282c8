"""Negative data: what a layer is to have no goodness for. Most rules keep the images and choose wrong labels.

A rule is a function of the minibatch and, for some, of the head's predictions for it. It must not know how
the network is cut into stages, nor when a prediction comes back: predictions are None where none was made
(the first `negative_lag` steps).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import Splits
from ffpipe.learn.hybrids import hybrid_images
from ffpipe.system.rng import generator

Labels = NDArray[np.int64]
# The read-out's probabilities for one minibatch, (B, classes), and those for several, by step.
Probabilities = NDArray[np.float32]
Predictions = dict[int, Probabilities]


class Minibatch(NamedTuple):
    """Positive data. rows: (B,) places in the training split; images: (B, features); labels: (B,)."""

    step: int
    rows: Labels
    images: Tensor
    labels: Labels


class NegativeData(NamedTuple):
    """images: (B, features); labels: (B,), of no meaning where rows carry none."""

    images: Tensor
    labels: Labels


# Makes the negatives of a minibatch, by the head's predictions for it where the rule asks for them.
Negatives = Callable[[Minibatch, Probabilities | None], NegativeData]


def random_labels(
    minibatch: Minibatch, prediction: Probabilities | None = None, *, seed: int, classes: int
) -> NegativeData:
    """Draw a wrong label uniformly, anew at each step."""
    labels = minibatch.labels
    offset = generator(seed, "negatives", minibatch.step).integers(1, classes, size=len(labels))
    return NegativeData(minibatch.images, (labels + offset) % classes)


class FixedLabels:
    """A wrong label drawn uniformly, once for each training example."""

    def __init__(self, seed: int, classes: int, examples: int) -> None:
        self.classes = classes
        self.offset = generator(seed, "fixed negatives").integers(1, classes, size=examples)

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        return NegativeData(minibatch.images, (minibatch.labels + self.offset[minibatch.rows]) % self.classes)


def shuffled_labels(minibatch: Minibatch, prediction: Probabilities | None, *, seed: int) -> NegativeData:
    """Take the labels of the minibatch in another order, so that one in `classes` is right (the Keras example)."""
    shuffled = generator(seed, "negatives", minibatch.step).permutation(minibatch.labels)
    return NegativeData(minibatch.images, shuffled)


def hard_labels(minibatch: Minibatch, prediction: Probabilities | None, *, seed: int, classes: int) -> NegativeData:
    """Draw a wrong label from the head's own prediction with the right label struck out (Hinton's program)."""
    if prediction is None:
        return random_labels(minibatch, seed=seed, classes=classes)
    right = (np.arange(len(minibatch.labels)), minibatch.labels)
    chances = prediction.astype(np.float64)
    chances[right] = 0.0
    chances[chances.sum(axis=1) <= 0.0] = 1.0  # the head gave the right label all of its belief
    chances[right] = 0.0
    ladder = np.cumsum(chances, axis=1)
    draw = generator(seed, "negatives", minibatch.step).random(len(ladder)) * ladder[:, -1]
    # Less, not less or equal: the step of the right label has no height, and no draw falls on it.
    chosen = (draw[:, None] < ladder).argmax(axis=1)
    return NegativeData(minibatch.images, np.asarray(chosen, dtype=np.int64))


def adaptive_labels(minibatch: Minibatch, prediction: Probabilities | None, *, seed: int, classes: int) -> NegativeData:
    """Take the wrong label that the head believes in most (AdaptiveNEG of Pipeline Forward-Forward, arXiv
    2404.08573)."""
    if prediction is None:
        return random_labels(minibatch, seed=seed, classes=classes)
    chances = prediction.copy()
    # Below 0, which may be all that the head gives the wrong labels.
    chances[np.arange(len(chances)), minibatch.labels] = -1.0
    return NegativeData(minibatch.images, np.asarray(chances.argmax(axis=1), dtype=np.int64))


def mixed_images(
    minibatch: Minibatch, prediction: Probabilities | None, *, seed: int, shape: tuple[int, ...]
) -> NegativeData:
    """Mix each image with another of the minibatch under a random mask (hybrids.py)."""
    chance = generator(seed, "negatives", minibatch.step)
    return NegativeData(hybrid_images(minibatch.images, shape, chance), minibatch.labels)


Read = Callable[[Examples, Labels, int], Tensor]


class OtherImages:
    """Images of classes that are not to be told apart, under labels drawn uniformly, at each step or once.

    pool: the images. read: the (B, features) of rows of a split as they are at a step. Raises UserError where
    the pool is less than a minibatch.
    """

    def __init__(self, training: Training, classes: int, pool: Examples, read: Read) -> None:
        self.seed, self.classes, self.pool, self.read = training.seed, classes, pool, read
        shuffles = training.data.order == "shuffled"
        self.sampler = Sampler(len(pool), training.batch_size, training.seed, "order of others", shuffles=shuffles)
        self.fixed: Labels | None = None
        if training.negatives == "others-fixed":
            self.fixed = generator(training.seed, "fixed negatives").integers(0, classes, size=len(pool))

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        rows = self.sampler.rows(minibatch.step)
        images = self.read(self.pool, rows, minibatch.step)
        if self.fixed is not None:
            return NegativeData(images, self.fixed[rows])
        labels = generator(self.seed, "negatives", minibatch.step).integers(0, self.classes, size=len(images))
        return NegativeData(images, labels)


def make_negatives(training: Training, splits: Splits, read: Read) -> Negatives:
    """Make the rule called `training.negatives`; read: see OtherImages."""
    seed, classes = training.seed, splits.classes
    # Only the rule that is asked for is made: without other classes the pool of OtherImages is refused as too small.
    rules: dict[str, Callable[[], Negatives]] = {
        "random": lambda: partial(random_labels, seed=seed, classes=classes),
        "fixed": lambda: FixedLabels(seed, classes, len(splits.train)),
        "shuffled": lambda: partial(shuffled_labels, seed=seed),
        "hard": lambda: partial(hard_labels, seed=seed, classes=classes),
        "adaptive": lambda: partial(adaptive_labels, seed=seed, classes=classes),
        "hybrid": lambda: partial(mixed_images, seed=seed, shape=splits.shape),
        "others": lambda: OtherImages(training, classes, splits.others, read),
        "others-fixed": lambda: OtherImages(training, classes, splits.others, read),
    }
    return rules[training.negatives]()

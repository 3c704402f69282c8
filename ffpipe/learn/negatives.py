"""Negative data: what a layer is to have no goodness for. Most rules keep the images and choose wrong labels.

A rule is a function of the minibatch and, for some, of the head's predictions for it. It must not know how
the network is cut into stages, nor when a prediction comes back: predictions are None where none was made
(the first `negative_lag` steps).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

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


class Negatives(Protocol):
    """A rule for the negative data of one minibatch."""

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        """Make negatives. prediction: (B, classes), of the head for this minibatch, where the rule asks for them."""


class RandomLabels:
    """A wrong label drawn uniformly, anew at each step."""

    def __init__(self, seed: int, classes: int) -> None:
        self.seed, self.classes = seed, classes

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        labels = minibatch.labels
        offset = generator(self.seed, "negatives", minibatch.step).integers(1, self.classes, size=len(labels))
        return NegativeData(minibatch.images, (labels + offset) % self.classes)


class FixedLabels:
    """A wrong label drawn uniformly, once for each training example."""

    def __init__(self, seed: int, classes: int, examples: int) -> None:
        self.classes = classes
        self.offset = generator(seed, "fixed negatives").integers(1, classes, size=examples)

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        return NegativeData(minibatch.images, (minibatch.labels + self.offset[minibatch.rows]) % self.classes)


class ShuffledLabels:
    """The labels of the minibatch in another order, so that one in `classes` is right (the Keras example)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        shuffled = generator(self.seed, "negatives", minibatch.step).permutation(minibatch.labels)
        return NegativeData(minibatch.images, shuffled)


class HardLabels:
    """A wrong label drawn from the head's own prediction with the right label struck out (Hinton's program)."""

    def __init__(self, seed: int, classes: int) -> None:
        self.seed, self.random = seed, RandomLabels(seed, classes)

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        if prediction is None:
            return self.random(minibatch, None)
        right = (np.arange(len(minibatch.labels)), minibatch.labels)
        chances = prediction.astype(np.float64)
        chances[right] = 0.0
        chances[chances.sum(axis=1) <= 0.0] = 1.0  # the head gave the right label all of its belief
        chances[right] = 0.0
        ladder = np.cumsum(chances, axis=1)
        draw = generator(self.seed, "negatives", minibatch.step).random(len(ladder)) * ladder[:, -1]
        # Less, not less or equal: the step of the right label has no height, and no draw falls on it.
        chosen = (draw[:, None] < ladder).argmax(axis=1)
        return NegativeData(minibatch.images, np.asarray(chosen, dtype=np.int64))


class AdaptiveLabels:
    """The wrong label that the head believes in most (AdaptiveNEG of Pipeline Forward-Forward, arXiv 2404.08573)."""

    def __init__(self, seed: int, classes: int) -> None:
        self.random = RandomLabels(seed, classes)

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        if prediction is None:
            return self.random(minibatch, None)
        chances = prediction.copy()
        # Below 0, which may be all that the head gives the wrong labels.
        chances[np.arange(len(chances)), minibatch.labels] = -1.0
        return NegativeData(minibatch.images, np.asarray(chances.argmax(axis=1), dtype=np.int64))


class HybridImages:
    """Each image mixed with another of the minibatch under a random mask (hybrids.py)."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.seed, self.shape = seed, shape

    def __call__(self, minibatch: Minibatch, prediction: Probabilities | None) -> NegativeData:
        chance = generator(self.seed, "negatives", minibatch.step)
        return NegativeData(hybrid_images(minibatch.images, self.shape, chance), minibatch.labels)


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
        "random": lambda: RandomLabels(seed, classes),
        "fixed": lambda: FixedLabels(seed, classes, len(splits.train)),
        "shuffled": lambda: ShuffledLabels(seed),
        "hard": lambda: HardLabels(seed, classes),
        "adaptive": lambda: AdaptiveLabels(seed, classes),
        "hybrid": lambda: HybridImages(seed, splits.shape),
        "others": lambda: OtherImages(training, classes, splits.others, read),
        "others-fixed": lambda: OtherImages(training, classes, splits.others, read),
    }
    return rules[training.negatives]()

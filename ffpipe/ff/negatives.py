"""Wrong labels for negative data. Each rule is a function of (seed, step) and, for hard ones, the head's predictions.

A rule must not know how the network is cut into stages, nor when a prediction comes back: it is
asked for the labels of a step and given the predictions for that step's minibatch, or None where
no prediction was made (the first `negative_lag` steps).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ffpipe.rng import generator

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]


class Negatives(Protocol):
    """A rule for the negative labels of one minibatch."""

    def __call__(self, step: int, rows: Labels, labels: Labels, predictions: Probabilities | None) -> Labels:
        """rows: (B,) places in the training split; labels: (B,) right ones; predictions: (B, classes). Returns (B,)."""


class RandomNegatives:
    """A wrong label drawn uniformly, anew at each step."""

    def __init__(self, seed: int, classes: int) -> None:
        self.seed = seed
        self.classes = classes

    def __call__(self, step: int, rows: Labels, labels: Labels, predictions: Probabilities | None) -> Labels:
        offset = generator(self.seed, "negatives", step).integers(1, self.classes, size=len(labels))
        wrong: Labels = (labels + offset) % self.classes
        return wrong


class FixedNegatives:
    """A wrong label drawn uniformly, once for each training example."""

    def __init__(self, seed: int, classes: int, examples: int) -> None:
        self.classes = classes
        self.offset = generator(seed, "fixed negatives").integers(1, classes, size=examples)

    def __call__(self, step: int, rows: Labels, labels: Labels, predictions: Probabilities | None) -> Labels:
        wrong: Labels = (labels + self.offset[rows]) % self.classes
        return wrong


class HardNegatives:
    """A wrong label drawn from the head's own prediction with the right label struck out (Hinton's program)."""

    def __init__(self, seed: int, classes: int) -> None:
        self.seed = seed
        self.random = RandomNegatives(seed, classes)

    def __call__(self, step: int, rows: Labels, labels: Labels, predictions: Probabilities | None) -> Labels:
        if predictions is None:
            return self.random(step, rows, labels, None)
        chances = predictions.astype(np.float64)
        chances[np.arange(len(labels)), labels] = 0.0
        certain = chances.sum(axis=1) <= 0.0  # the head gave the right label all of its belief
        chances[certain] = 1.0
        chances[np.arange(len(labels)), labels] = 0.0
        ladder = np.cumsum(chances, axis=1)
        draw = generator(self.seed, "negatives", step).random(len(labels)) * ladder[:, -1]
        chosen = (draw[:, None] < ladder).argmax(axis=1)
        return np.asarray(chosen, dtype=np.int64)


def make_negatives(rule: str, seed: int, classes: int, examples: int) -> Negatives:
    """The rule called "random", "fixed" or "hard" in `training.negatives`."""
    if rule == "random":
        return RandomNegatives(seed, classes)
    if rule == "fixed":
        return FixedNegatives(seed, classes, examples)
    return HardNegatives(seed, classes)

"""The TensorFlow program of five digits, written in NumPy from its equations, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ffpipe.data.splits import Splits
from ffpipe.learn.dense import initial_weight
from ffpipe.learn.readout import HEAD_INDEX
from ffpipe.system.rng import generator

Array = NDArray[np.float64]
CLASSES, WIDTHS, BATCH, EPOCHS = 5, (30, 20, 20, 10), 100, 3


class Adam:
    """Keras's Adam of one array, in place."""

    def __init__(self, value: Array, rate: float) -> None:
        self.value, self.rate, self.done = value, rate, 0
        self.m, self.v = np.zeros_like(value), np.zeros_like(value)

    def step(self, gradient: Array) -> None:
        self.done += 1
        alpha = self.rate * np.sqrt(1.0 - 0.999**self.done) / (1.0 - 0.9**self.done)
        self.m += (gradient - self.m) * (1.0 - 0.9)
        self.v += (gradient**2 - self.v) * (1.0 - 0.999)
        self.value -= alpha * self.m / (np.sqrt(self.v) + 1e-7)


class Layer:
    """A ReLU layer that learns by the binary cross-entropy of its goodness less .1."""

    def __init__(self, index: int, fan_in: int, width: int, seed: int) -> None:
        self.weight = initial_weight(seed, index, fan_in, width, "glorot").double().numpy().copy()
        self.bias = np.zeros(width)
        self.adams = Adam(self.weight, 0.0001), Adam(self.bias, 0.0001)
        self.losses: list[float] = []

    def forward(self, rows: Array) -> Array:
        h: Array = np.maximum(rows @ self.weight + self.bias, 0.0)
        return h

    def learn(self, rows: Array, label: float) -> Array:
        """Make one step; the activities are those from before it."""
        h = self.forward(rows)
        logit = (h**2).sum(1) - 0.1
        self.losses.append(float((np.log1p(np.exp(-np.abs(logit))) + np.maximum(logit, 0.0) - label * logit).mean()))
        by_total = ((1.0 / (1.0 + np.exp(-logit)) - label) / len(rows))[:, None] * 2.0 * h
        for adam, gradient in zip(self.adams, (rows.T @ by_total, by_total.sum(0)), strict=True):
            adam.step(gradient)
        return h


class Program:
    """The whole of it: layers, and a softmax with bias on the normalised activities of layers 2 to 4."""

    def __init__(self, seed: int, rate: float, labelled: bool) -> None:
        sizes = (64, *WIDTHS)
        self.layers = [Layer(i, sizes[i], sizes[i + 1], seed) for i in range(4)]
        self.weight = initial_weight(seed, HEAD_INDEX, sum(WIDTHS[1:]), CLASSES, "glorot").double().numpy().copy()
        self.bias = np.zeros(CLASSES)
        self.adams = Adam(self.weight, rate), Adam(self.bias, rate)
        self.labelled = labelled

    def row(self, images: Array, labels: NDArray[np.int64]) -> Array:
        return overlaid(images, labels) if self.labelled else images

    def train_on(self, rows: Array, label: float, learning: range = range(4)) -> Array:
        """Train on one minibatch of one role. Returns what the softmax sees."""
        seen = []
        for index, layer in enumerate(self.layers):
            h = layer.learn(rows, label) if index in learning else layer.forward(rows)
            rows = normalised(h)
            seen.append(rows)
        return np.concatenate(seen[1:], 1)

    def train_softmax(self, seen: Array, labels: NDArray[np.int64]) -> None:
        logits = seen @ self.weight + self.bias
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        delta = (exponents / exponents.sum(1, keepdims=True) - np.eye(CLASSES)[labels]) / len(labels)
        for adam, gradient in zip(self.adams, (seen.T @ delta, delta.sum(0)), strict=True):
            adam.step(gradient)

    def errors(self, images: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
        """Return the test errors by goodness of layers 2 to 4 under each label, and by softmax."""
        goodness = np.zeros((len(images), CLASSES))
        for label in range(CLASSES):
            rows = overlaid(images, np.full(len(images), label))
            for index, layer in enumerate(self.layers):
                h = layer.forward(rows)
                goodness[:, label] += (h**2).sum(1) * (index > 0)
                rows = normalised(h)
        rows, seen = images.copy(), []
        if self.labelled:
            rows[:, :CLASSES] = 1.0 / CLASSES
        for layer in self.layers:
            rows = normalised(layer.forward(rows))
            seen.append(rows)
        softmax = np.concatenate(seen[1:], 1) @ self.weight + self.bias
        return tuple(float((each.argmax(1) != labels).mean()) for each in (goodness, softmax))  # type: ignore[return-value]

    def losses(self, images: Array, labels: NDArray[np.int64]) -> list[float]:
        """Return the loss of each layer on rows that are all positive."""
        rows, found = self.row(images, labels), []
        for layer in self.layers:
            h = layer.forward(rows)
            found.append(float(np.log1p(np.exp(0.1 - (h**2).sum(1))).mean()))
            rows = normalised(h)
        return found


def overlaid(images: Array, labels: NDArray[np.int64]) -> Array:
    rows = images.copy()
    rows[:, :CLASSES] = np.eye(CLASSES)[labels]
    return rows


def normalised(h: Array) -> Array:
    rows: Array = h / (np.linalg.norm(h, axis=1, keepdims=True) + 1e-7)
    return rows


def batches(splits: Splits, seed: int) -> tuple[list[tuple[Array, NDArray[np.int64]]], ...]:
    """Return an epoch's positive and negative minibatches in the file's order, the latter under labels drawn once."""
    made = []
    drawn = generator(seed, "fixed negatives").integers(0, CLASSES, size=len(splits.others))
    for pool, labels in ((splits.train, None), (splits.others, drawn)):
        rows = np.arange(len(pool))
        images, found = pool.images(rows).astype(np.float64), pool.labels(rows) if labels is None else labels
        starts = range(0, len(pool) - BATCH + 1, BATCH)
        made.append([(images[first : first + BATCH], found[first : first + BATCH]) for first in starts])
    return tuple(made)

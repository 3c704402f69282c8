"""Hinton's program written out once more, slowly: NumPy float64, one case at a time, from the equations.

It shares nothing with the package but the numbers that a run is made from (initial weights, order of
examples, uniform draws), which the test hands in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Rates:
    """The constants of the program."""

    rate: float = 0.01
    head_rate: float = 0.1
    keep: float = 0.9
    decay: float = 0.001
    head_decay: float = 0.003
    peer: float = 0.03


@dataclass
class SlowNetwork:
    """Dense layers and a softmax head on all of them but the first, for images with overlaid labels."""

    weights: list[Array]
    classes: int
    rates: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        self.biases = [np.zeros(w.shape[1]) for w in self.weights]
        self.means = [np.full(w.shape[1], 0.5) for w in self.weights]
        self.weight_gradients = [np.zeros_like(w) for w in self.weights]
        self.bias_gradients = [np.zeros(w.shape[1]) for w in self.weights]
        self.head = {i: np.zeros((w.shape[1], self.classes)) for i, w in enumerate(self.weights) if i > 0}
        self.head_gradients = {i: np.zeros_like(w) for i, w in self.head.items()}

    def row(self, image: Array, label: int | None) -> Array:
        """Return one normalised input row; no label is the neutral one."""
        row = image.astype(np.float64).copy()
        for c in range(self.classes):
            row[c] = 1.0 / self.classes if label is None else float(c == label)
        return unit_rms(row)

    def states(self, row: Array) -> tuple[list[Array], list[Array]]:
        """Return the inputs and activities of each layer for one case."""
        inputs, states = [], []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            total = np.array([sum(row[i] * weight[i, j] for i in range(len(row))) for j in range(len(bias))]) + bias
            state = np.array([max(0.0, t) for t in total])
            inputs.append(row)
            states.append(state)
            row = unit_rms(state)
        return inputs, states

    def predict(self, image: Array) -> tuple[Array, dict[int, Array]]:
        """Return the head's probabilities for one image under the neutral label, and what it saw."""
        _, states = self.states(self.row(image, None))
        seen = {i: unit_rms(states[i]) for i in self.head}
        logits = np.zeros(self.classes)
        for i, weight in self.head.items():
            logits = logits + seen[i] @ weight
        odds = np.exp(logits - logits.max())
        return odds / odds.sum(), seen

    def train_head(self, images: Array, labels: Array) -> Array:
        """Make one step of the head; return the probabilities from before it."""
        probabilities = []
        gradients = {i: np.zeros_like(w) for i, w in self.head.items()}
        for image, label in zip(images, labels, strict=True):
            p, seen = self.predict(image)
            probabilities.append(p)
            error = -p
            error[label] += 1.0
            for i in self.head:
                gradients[i] += np.outer(seen[i], error)
        r = self.rates
        for i in self.head:
            self.head_gradients[i] = r.keep * self.head_gradients[i] + (1 - r.keep) * gradients[i] / len(images)
            self.head[i] = self.head[i] + r.head_rate * (self.head_gradients[i] - r.head_decay * self.head[i])
        return np.array(probabilities)

    def train_layers(self, images: Array, right: Array, wrong: Array) -> None:
        """Make one step of every layer, all from the weights before it."""
        r, n = self.rates, len(images)
        cases = [
            (self.states(self.row(x, a)), self.states(self.row(x, b)))
            for x, a, b in zip(images, right, wrong, strict=True)
        ]
        for layer, weight in enumerate(self.weights):
            width = weight.shape[1]
            mean = sum(states[layer] for (_, states), _ in cases) / n
            self.means[layer] = 0.9 * self.means[layer] + 0.1 * mean
            pull = r.peer * (self.means[layer].mean() - self.means[layer])
            by_weight, by_bias = np.zeros_like(weight), np.zeros(width)
            for positive, negative in cases:
                for (inputs, states), sign in ((positive, 1), (negative, -1)):
                    state = states[layer]
                    p = 1.0 / (1.0 + math.exp(-(float(state @ state) - width)))
                    better = (1.0 - p) * state + pull if sign > 0 else -p * state
                    by_weight += np.outer(inputs[layer], better)
                    by_bias += better
            self.weight_gradients[layer] = r.keep * self.weight_gradients[layer] + (1 - r.keep) * by_weight / n
            self.bias_gradients[layer] = r.keep * self.bias_gradients[layer] + (1 - r.keep) * by_bias / n
            self.biases[layer] = self.biases[layer] + r.rate * self.bias_gradients[layer]
            self.weights[layer] = weight + r.rate * (self.weight_gradients[layer] - r.decay * weight)


def unit_rms(row: Array) -> Array:
    """Return a row over its root mean square."""
    return row / (1e-20 + math.sqrt(float((row * row).mean())))


def choose_wrong(probabilities: Array, right: int, draw: float) -> int:
    """Return a label drawn from the probabilities with the right one struck out, by going up a ladder."""
    chances = [0.0 if c == right else float(p) for c, p in enumerate(probabilities)]
    target, climbed = draw * sum(chances), 0.0
    for c, chance in enumerate(chances):
        climbed += chance
        if target < climbed:
            return c
    raise AssertionError("the draw is past the ladder")


def train_slowly(
    network: SlowNetwork,
    batches: Callable[[int], tuple[Array, Array]],
    draws: Callable[[int], Array],
    random_wrong: Callable[[int, Array], Array],
    steps: int,
    lag: int,
) -> None:
    """Train `steps` steps with hard negatives; with a lag the head works `lag` minibatches ahead of the layers."""
    predictions: dict[int, Array] = {}
    for step in range(steps):
        images, right = batches(step)
        ahead_images, ahead_labels = batches(step + lag)
        if lag == 0:
            predictions[step] = network.train_head(images, right)
        if step in predictions:
            drawn = zip(predictions.pop(step), right, draws(step), strict=True)
            wrong = np.array([choose_wrong(p, int(y), float(u)) for p, y, u in drawn])
        else:
            wrong = random_wrong(step, right)
        if lag:
            # The head sees the activities from before this step's update.
            before = [w.copy() for w in network.weights], [b.copy() for b in network.biases]
            network.train_layers(images, right, wrong)
            after = network.weights, network.biases
            network.weights, network.biases = before
            predictions[step + lag] = network.train_head(ahead_images, ahead_labels)
            network.weights, network.biases = after
        else:
            network.train_layers(images, right, wrong)

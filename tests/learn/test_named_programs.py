"""The named programs to the letter: recipes held against programs of their own, written from the equations in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from five_digits_program import Adam, Array

from ffpipe import Config, UserError, load, override, recipe, train
from ffpipe.data.splits import load_splits
from ffpipe.learn.dense import FFDense, initial_weight
from ffpipe.learn.feeder import make_feeder, row_specs
from ffpipe.learn.optim import KerasAdam


def on_digits(name: str, run: Path, **fields: Any) -> Config:
    """Return a recipe on the digits, in float64 and in one process."""
    made = override(recipe(name), {f"training.{field}": value for field, value in fields.items()})
    data = replace(recipe("digits").training.data, split_seed=-1, order=made.training.data.order)
    training = replace(made.training, data=data, precision="float64")
    execution = replace(made.execution, engine="local", stages=1, window=0, evaluate_every=0, run_dir=str(run))
    return replace(made, training=training, execution=execution)


def fed(config: Config, steps: int) -> Iterator[tuple[Array, Array]]:
    """Yield the positive and negative rows of each step, as the feeder makes them."""
    splits = load_splits(config.training.data)
    inputs, _ = row_specs(config.training, splits.shape, splits.classes)
    feeder = make_feeder(config.training, splits, inputs)
    batch = config.training.batch_size
    for step in range(steps):
        rows = torch.empty(2 * batch, inputs.size, dtype=torch.float64)
        feeder.learning(step, None, rows)
        yield rows[:batch].numpy(), rows[batch:].numpy()


class Keras:
    """A layer of the Keras example: 50 steps of Adam, as Keras makes them, on one full batch."""

    def __init__(self, index: int, fan_in: int, width: int, seed: int, rate: float) -> None:
        self.weight = initial_weight(seed, index, fan_in, width, "glorot").double().numpy().copy()
        self.bias = np.zeros(width)
        self.adams = Adam(self.weight, rate), Adam(self.bias, rate)

    def handed_on(self, rows: Array) -> Array:
        """Return the directions of what the layer makes of rows, which are directions themselves."""
        h: Array = np.maximum(rows @ self.weight + self.bias, 0.0)
        direction: Array = h / (np.linalg.norm(h, axis=1, keepdims=True) + 1e-4)
        return direction

    def learn(self, positive: Array, negative: Array, threshold: float, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            rows = np.concatenate([positive, negative])
            h = np.maximum(rows @ self.weight + self.bias, 0.0)
            sign = np.repeat([-1.0, 1.0], len(positive))
            behind = sign * ((h**2).mean(1) - threshold)
            losses.append(float(np.log1p(np.exp(behind)).mean()))
            by_goodness = sign / (1.0 + np.exp(-behind)) / len(rows)
            by_total = by_goodness[:, None] * 2.0 * h / h.shape[1]
            for adam, gradient in zip(self.adams, (rows.T @ by_total, by_total.sum(0)), strict=True):
                adam.step(gradient)
        return losses


def test_keras_exact_is_the_example(tmp_path: Path) -> None:
    """Three epochs: losses to the sixth decimal, and weights."""
    config = on_digits("keras-exact", tmp_path / "run", dims=[64, 30, 30], epochs=3, batch_size=1_000, local_steps=20)
    training = config.training
    layers = [Keras(i, 64 if i == 0 else 30, 30, training.seed, 0.03) for i in range(2)]
    losses = []
    for positive, negative in fed(config, 3):
        for layer in layers:
            losses.append(layer.learn(positive, negative, 1.5, 20))
            positive, negative = layer.handed_on(positive), layer.handed_on(negative)
    train(replace(config, execution=replace(config.execution, log_steps=1)))
    rows = pq.read_table(tmp_path / "run" / "metrics.parquet").sort_by([("step", "ascending"), ("layer", "ascending")])
    assert rows["loss"].to_pylist() == pytest.approx([float(np.mean(each)) for each in losses], rel=1e-6)
    for block, layer in zip(load(tmp_path / "run").blocks, layers, strict=True):
        assert isinstance(block, FFDense)
        np.testing.assert_allclose(block.weight.detach().numpy(), layer.weight, rtol=1e-5, atol=1e-7)


def test_epsilon_goes_before_the_correction_of_the_bias() -> None:
    """One parameter by hand: two steps, with an epsilon that matters."""
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = KerasAdam([weight], lr=0.1, eps=0.5)
    value, m, v = 1.0, 0.0, 0.0
    for step, gradient in ((1, 2.0), (2, -1.0)):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        value -= 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * m / (np.sqrt(v) + 0.5)
        assert float(weight.detach()) == pytest.approx(value, rel=1e-12)


class FFPy:
    """A layer of Hinton's NumPy port before its repair: momentum by averaging, no peer normalisation, in lock step."""

    def __init__(self, index: int, fan_in: int, width: int, seed: int) -> None:
        self.weight = initial_weight(seed, index, fan_in, width).double().numpy().copy()
        self.bias = np.zeros(width)
        self.averages = np.zeros_like(self.weight), np.zeros(width)
        self.errors = [0, 0]  # by goodness, and by its probabilities

    def forward(self, rows: Array) -> Array:
        h: Array = np.maximum(rows @ self.weight + self.bias, 0.0)
        return h

    def learn(self, positive: Array, negative: Array, rate: float) -> None:
        threshold = self.weight.shape[1]
        h, g = self.forward(positive), self.forward(negative)
        p, q = (1.0 / (1.0 + np.exp(threshold - (each**2).sum(1))) for each in (h, g))
        self.errors[0] += int(((g**2).sum(1) > (h**2).sum(1)).sum())
        self.errors[1] += int((q > p).sum())
        up, down = (1.0 - p)[:, None] * h, -q[:, None] * g
        gradients = (positive.T @ up + negative.T @ down, up.sum(0) + down.sum(0))
        for average, gradient in zip(self.averages, gradients, strict=True):
            average *= 0.9
            average += 0.1 * gradient / len(positive)
        self.weight += rate * (self.averages[0] - 0.002 * self.weight)
        self.bias += rate * self.averages[1]


def test_ff_py_is_the_port(tmp_path: Path) -> None:
    """Four epochs of random negatives, which take no part of the head: weights, rates and pair errors."""
    config = on_digits("ff-py", tmp_path / "run", dims=[64, 40, 30], epochs=4, batch_size=100, negatives="random")
    assert config.training.data.order == "file"
    steps = len(load_splits(config.training.data).train) // 100
    layers = [FFPy(i, 64 if i == 0 else 40, 40 if i == 0 else 30, config.training.seed) for i in range(2)]
    factors = [1.0, 1.0, 1.0, 3 / 4]  # (1 + 2 (4 - e)) / 4 with e from 0, and no more than 1
    errors: list[list[list[int]]] = []
    for step, (positive, negative) in enumerate(fed(config, 4 * steps)):
        for layer in layers:
            layer.errors = layer.errors if step % steps else [0, 0]
            up, down = layer.forward(positive), layer.forward(negative)
            layer.learn(positive, negative, 0.01 * factors[step // steps])
            positive, negative = (each / np.sqrt((each**2).mean(1, keepdims=True) + 1e-20) for each in (up, down))
        if step % steps == steps - 1:
            errors.append([layer.errors for layer in layers])
    train(replace(config, execution=replace(config.execution, log_steps=steps)))
    for block, layer in zip(load(tmp_path / "run").blocks, layers, strict=True):
        assert isinstance(block, FFDense)
        np.testing.assert_allclose(block.weight.detach().numpy(), layer.weight, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(block.bias.detach().numpy().ravel(), layer.bias, rtol=1e-6, atol=1e-9)
    table = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    rows = [[row for row in table if row["layer"] == i] for i in range(2)]
    measures = ("pair_errors", "logistic_pair_errors")
    counted = [[[round(row[each] * steps * 100) for each in measures] for row in of_layer] for of_layer in rows]
    assert counted == [list(each) for each in zip(*errors, strict=True)]


def test_the_order_of_the_file_is_refused_where_the_split_is_shuffled() -> None:
    with pytest.raises(UserError, match=r"training.data.order is 'file', but training.data.split_seed shuffles"):
        override(recipe("digits"), {"training.data.order": "file"})


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("KerasAdams", {}, r"did you mean 'KerasAdam'"),
        ("SGD", {"eps": 1e-7}, r"training\.optimizer\.options has 'eps', which SGD does not have; its options: moment"),
        ("Adam", {"epsilon": 1e-7}, r"options has 'epsilon', which Adam does not have; its options: betas, eps, "),
        ("KerasAdam", {"eps": -1.0}, r"training\.optimizer does not fit KerasAdam: Invalid epsilon value"),
    ],
)
def test_an_optimiser_without_that_option_or_form_is_refused(kind: str, options: dict[str, float], says: str) -> None:
    fields = {"training.optimizer.kind": kind, "training.optimizer.options": options}
    with pytest.raises(UserError, match=says):
        override(recipe("digits"), fields)

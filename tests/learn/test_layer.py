"""The closed-form step against autograd, and 50 steps of a network against the slow reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from blueprints import blueprint_for, hand_through, make_stages
from covering import in_turn
from reference import SlowNetwork, train_slowly
from torch.nn.functional import softplus

from ffpipe.config.recipes import digits
from ffpipe.config.schema import Optimizer, Training
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import load_splits
from ffpipe.learn.block import Step
from ffpipe.learn.dense import FFDense, initial_weight
from ffpipe.learn.spec import NEUTRAL, PAIRS, RowLayout
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.schedule import Plan
from ffpipe.system.rng import generator

CPU = torch.device("cpu")
BATCH, FAN_IN, WIDTH = 7, 11, 9
LAYOUT = RowLayout(BATCH, PAIRS, (NEUTRAL,))


def make_layer(training: Training) -> FFDense:
    return FFDense(0, FAN_IN, WIDTH, training, Workspace(CPU))


def rows(seed: int = 0, n: int = 3 * BATCH) -> torch.Tensor:
    return torch.randn(n, FAN_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def learn(layer: FFDense, x: torch.Tensor, step: int = 0, factor: float | None = 1.0) -> torch.Tensor:
    """Make one step; return what is handed on."""
    out = torch.empty(len(x), WIDTH, dtype=x.dtype)
    layer.learn(x, LAYOUT, None, Step(step, factor), out)
    return out


def autograd_loss(
    layer: FFDense, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, training: Training
) -> torch.Tensor:
    """Compute the objective of one minibatch, written with the operations that autograd knows."""
    total = x[: 2 * BATCH] @ weight + bias
    activity = torch.relu(total)
    squares = activity.pow(2)
    goodness = squares.sum(1) if training.goodness == "sum" else squares.mean(1)
    threshold = training.threshold
    if threshold is None:
        threshold = WIDTH if training.goodness == "sum" else 1.0
    weigh = 0.5 if training.objective == "hinton" else 1.0
    margin = (goodness - threshold) / training.temperature
    loss = weigh * (softplus(-margin[:BATCH]) + softplus(margin[BATCH:])).sum() / BATCH
    if training.peer:
        keep = training.peer_averaging
        mean = keep * layer.mean_activity + (1 - keep) * activity[:BATCH].detach().mean(0)
        pull = training.peer * (mean - mean.mean())  # a gradient by the total input that no function has
        loss = loss + (total[:BATCH] * pull).sum() / BATCH
    return loss


@pytest.mark.parametrize("objective", ["hinton", "softplus"])
@pytest.mark.parametrize("goodness", ["sum", "mean"])
@pytest.mark.parametrize("peer", [0.0, 0.03])
@pytest.mark.parametrize(("threshold", "temperature"), [(None, 1.0), (1.5, 0.7)])
def test_closed_form_step_is_the_gradient_of_the_objective(
    objective: Any, goodness: Any, peer: float, threshold: float | None, temperature: float
) -> None:
    training = Training(
        objective=objective,
        goodness=goodness,
        peer=peer,
        threshold=threshold,
        temperature=temperature,
        precision="float64",
        optimizer=Optimizer(kind="SGD", learning_rate=1.0),
    )
    layer = make_layer(training)
    layer.bias += 0.1
    weight, bias = layer.weight.clone().requires_grad_(), layer.bias.clone().requires_grad_()
    x = rows()
    autograd_loss(layer, x, weight, bias, training).backward()
    before = weight.detach().clone(), bias.detach().clone()
    learn(layer, x)
    assert weight.grad is not None
    assert bias.grad is not None
    assert relative(before[0] - layer.weight, weight.grad) < 1e-10
    assert relative(before[1] - layer.bias, bias.grad) < 1e-10


def relative(given: torch.Tensor, right: torch.Tensor) -> float:
    assert right.norm() > 1e-3
    return float((given - right).norm() / right.norm())


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Adadelta"])
def test_any_torch_optimiser_does_with_a_layer_what_it_does_under_autograd(kind: str) -> None:
    training = Training(precision="float64", peer=0.0, optimizer=Optimizer(kind=kind, learning_rate=0.03))
    layer = make_layer(training)
    weight, bias = torch.nn.Parameter(layer.weight.clone()), torch.nn.Parameter(layer.bias.clone())
    theirs = getattr(torch.optim, kind)([weight, bias], lr=0.03, weight_decay=0.0)
    for step in range(5):
        x = rows(step)
        theirs.zero_grad()
        autograd_loss(layer, x, weight, bias, training).backward()
        learn(layer, x)
        theirs.step()
    # Not 1e-10: these divide by running root mean squares, which makes more of a rounding where they are small.
    assert relative(layer.weight, weight.detach()) < 1e-8
    assert relative(layer.bias, bias.detach()) < 1e-8


@pytest.mark.parametrize("kind", ["averaging", "SGD", "Adam", "Adagrad"])
def test_a_layer_goes_on_from_its_state_to_the_bit(kind: str) -> None:
    training = Training(optimizer=Optimizer(kind=kind))
    layer, copy = make_layer(training), make_layer(training)
    for seed in range(4):
        learn(layer, rows(seed).float(), seed)
    copy.restore({name: tensor.clone() for name, tensor in layer.state().items()})
    for seed in range(4, 8):
        learn(layer, rows(seed).float(), seed)
        learn(copy, rows(seed).float(), seed)
    for name, tensor in layer.state().items():
        assert torch.equal(tensor, copy.state()[name]), name


def test_what_leaves_a_layer_is_normalised_detached_and_from_before_the_update() -> None:
    layer = make_layer(Training(precision="float64"))
    x = rows()
    expected = torch.relu(x @ layer.weight + layer.bias)
    out = learn(layer, x)
    torch.testing.assert_close(out, expected / expected.pow(2).mean(1, keepdim=True).sqrt(), rtol=1e-12, atol=0)
    assert not out.requires_grad


def test_weights_begin_as_the_seed_and_the_place_of_their_layer_say() -> None:
    begun = [initial_weight(seed, index, FAN_IN, WIDTH) for seed, index in ((1, 0), (2, 0), (1, 1), (1, 0))]
    assert torch.equal(begun[0], begun[3])
    assert not any(torch.equal(begun[0], other) for other in begun[1:3])


def test_a_row_of_zeros_stays_zero() -> None:
    layer = make_layer(Training())
    layer.bias.fill_(-100.0)
    out, goodness = layer.score(rows(n=2).float())
    assert goodness is not None
    assert goodness.tolist() == [0.0, 0.0]
    assert not out.any()


@pytest.mark.parametrize("objective", ["hinton", "softplus", "symba"])
def test_a_step_at_which_a_layer_does_not_learn_tells_its_loss_and_changes_nothing(objective: Any) -> None:
    training = Training(precision="float64", objective=objective)
    resting, learning = make_layer(training), make_layer(training)
    before = {name: tensor.clone() for name, tensor in resting.state().items()}
    outs = [torch.empty(3 * BATCH, WIDTH, dtype=torch.float64) for _ in range(2)]
    rested = resting.learn(rows(), LAYOUT, None, Step(0, None), outs[0])
    learned = learning.learn(rows(), LAYOUT, None, Step(0), outs[1])
    assert rested == learned
    assert torch.equal(*outs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in resting.state().items())
    assert not torch.equal(learning.weight, before["weight"])


@pytest.mark.parametrize("normalization", ["rms", "l2"])
@pytest.mark.parametrize("goodness", ["sum", "mean"])
def test_scores_are_of_what_is_handed_on_and_can_be_differentiated(goodness: Any, normalization: Any) -> None:
    layer = make_layer(Training(precision="float64", goodness=goodness, normalization=normalization))
    x = rows(n=5).requires_grad_()
    layer.weight.requires_grad_()
    out, said = layer.score(x)
    assert said is not None
    activity = torch.relu(x @ layer.weight + layer.bias)
    squares = activity.pow(2)
    length = squares.mean(1).sqrt() if normalization == "rms" else squares.sum(1).sqrt()
    torch.testing.assert_close(said, squares.sum(1) if goodness == "sum" else squares.mean(1))
    torch.testing.assert_close(out, activity / length[:, None])
    direction = rows(1)[:5, :WIDTH]
    ours = torch.autograd.grad((out * direction).sum() + said.sum(), [x, layer.weight], retain_graph=True)
    scale = 1.0 if goodness == "sum" else 1.0 / WIDTH
    by_hand = (activity / length[:, None] * direction).sum() + scale * squares.sum()
    for given, right in zip(ours, torch.autograd.grad(by_hand, [x, layer.weight]), strict=True):
        torch.testing.assert_close(given, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("lag", "stages"), in_turn([0, 6], [1, 3]))
def test_fifty_steps_agree_with_the_slow_program(lag: int, stages: int) -> None:
    steps, batch = 50, 4
    recipe = digits().training
    training = replace(
        recipe,
        dims=(64, 12, 10, 8),
        epochs=2,
        batch_size=batch,
        labels="overlay",
        precision="float64",
        schedule="constant",
        negative_lag=lag,
        data=replace(recipe.data, train_limit=batch * 40),
    )
    splits = load_splits(training.data)
    network = blueprint_for(training, splits)
    groups = [range(3)] if stages == 1 else [range(i, i + 1) for i in range(3)]
    made = make_stages(network, groups, steps)
    feed = Feed(network, splits, CPU)
    plan = Plan(steps, 3 if lag else 1, lag == 0, {}, {}, 1, 0)
    for item in plan.items():
        hand_through(made, item, feed.tensors(item))
        feed.take_predictions(made[-1].predictions(item))

    weights = [
        initial_weight(training.seed, i, training.dims[i], training.dims[i + 1]).double().numpy() for i in range(3)
    ]
    slow = SlowNetwork(weights, splits.classes)
    sampler = Sampler(len(splits.train), batch, training.seed)

    def batches(step: int) -> tuple[Any, Any]:
        rows = sampler.rows(step)
        return splits.train.images(rows), splits.train.labels(rows)

    def random_wrong(step: int, right: Any) -> Any:
        offset = generator(training.seed, "negatives", step).integers(1, splits.classes, size=batch)
        return (right + offset) % splits.classes

    train_slowly(
        slow,
        batches,
        lambda step: generator(training.seed, "negatives", step).random(batch),
        random_wrong,
        steps,
        lag,
    )
    for i, block in enumerate(block for stage in made for block in stage.blocks):
        np.testing.assert_allclose(block.weights()["weight"].numpy(), slow.weights[i], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(block.weights()["bias"].numpy(), slow.biases[i], rtol=1e-8, atol=1e-10)
    assert made[-1].head is not None
    for i, weight in slow.head.items():
        theirs = made[-1].head.weights()[f"weight.{i}"].numpy()
        assert np.abs(weight).max() > 1e-3
        np.testing.assert_allclose(theirs, weight, rtol=1e-8, atol=1e-10)

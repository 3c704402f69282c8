"""Ways in which a layer may learn beside one joint update: each against autograd written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.block import Step
from ffpipe.learn.dense import FFDense, initial_weight
from ffpipe.learn.objectives import Learned
from ffpipe.learn.spec import NEUTRAL, PAIRS, RowLayout
from ffpipe.learn.workspace import Workspace
from ffpipe.system.rng import generator

BATCH, FAN_IN, WIDTH, RATE = 6, 11, 9, 0.3
LAYOUT = RowLayout(BATCH, PAIRS, (NEUTRAL,))
ROWS = torch.randn(3 * BATCH, FAN_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make_layer(**fields: Any) -> FFDense:
    """Make a layer with plain gradient descent in float64 on softplus(goodness - 2), without peer normalisation."""
    plain: dict[str, Any] = {
        "precision": "float64",
        "normalization": "l2",
        "objective": "softplus",
        "threshold": 2.0,
        "peer": 0.0,
        "optimizer": Optimizer(kind="SGD", learning_rate=RATE),
    }
    return FFDense(0, FAN_IN, WIDTH, Training(**{**plain, **fields}), Workspace(torch.device("cpu")))


def learn(layer: FFDense, step: int = 0) -> tuple[Tensor, Learned]:
    """Make one step on ROWS; return what is handed on, and what it came to."""
    out = torch.empty(3 * BATCH, WIDTH, dtype=torch.float64)
    learned = layer.learn(ROWS, LAYOUT, None, Step(step), out)
    return out, learned


class ByHand:
    """The same layer, its gradients by autograd. kept: factors of dropout."""

    def __init__(self, layer: FFDense, kept: Tensor | None = None) -> None:
        self.weight = layer.weight.clone().requires_grad_()
        self.bias = layer.bias.clone().requires_grad_()
        self.kept = torch.ones(3 * BATCH, WIDTH, dtype=torch.float64) if kept is None else kept

    def activity(self, which: slice) -> Tensor:
        return torch.relu(ROWS[which] @ self.weight + self.bias)

    def goodness(self, which: slice) -> Tensor:
        return (self.activity(which) * self.kept[which]).pow(2).sum(1)

    def handed_on(self, which: slice = slice(None)) -> Tensor:
        activity = self.activity(which).detach()
        handed: Tensor = activity / activity.norm(dim=1, keepdim=True).clamp_min(1e-20) * self.kept[which]
        return handed

    def descend(self, loss: Tensor) -> None:
        by_weight, by_bias = torch.autograd.grad(loss, [self.weight, self.bias])
        with torch.no_grad():
            self.weight -= RATE * by_weight
            self.bias -= RATE * by_bias

    def descend_together(self) -> float:
        positive, negative = self.goodness(POSITIVE), self.goodness(NEGATIVE)
        loss = (softplus(2.0 - positive) + softplus(negative - 2.0)).sum() / BATCH
        self.descend(loss)
        return float(loss.detach())


POSITIVE, NEGATIVE, REST = slice(0, BATCH), slice(BATCH, 2 * BATCH), slice(BATCH, None)


def close(layer: FFDense, hand: ByHand) -> None:
    torch.testing.assert_close(layer.weight, hand.weight.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.bias, hand.bias.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hand_on", ["before", "after"])
@pytest.mark.parametrize("local_steps", [1, 4])
def test_local_steps_and_what_goes_on_to_the_next_layer(local_steps: int, hand_on: Any) -> None:
    layer = make_layer(local_steps=local_steps, hand_on=hand_on)
    hand = ByHand(layer)
    before = hand.handed_on()
    losses = [hand.descend_together() for _ in range(local_steps)]
    out, made = learn(layer)
    close(layer, hand)
    torch.testing.assert_close(out, before if hand_on == "before" else hand.handed_on())
    assert float(made.loss) == pytest.approx(BATCH * sum(losses) / local_steps)


@pytest.mark.parametrize("hand_on", ["before", "after"])
def test_two_phases_update_after_the_positive_pass_and_again_after_the_negative_one(hand_on: Any) -> None:
    layer = make_layer(phases="apart", hand_on=hand_on)
    hand = ByHand(layer)
    positive_on = hand.handed_on(POSITIVE)
    positive = softplus(2.0 - hand.goodness(POSITIVE)).sum() / BATCH
    hand.descend(positive)
    rest_on = hand.handed_on(REST)
    negative = softplus(hand.goodness(NEGATIVE) - 2.0).sum() / BATCH
    hand.descend(negative)
    out, made = learn(layer)
    close(layer, hand)
    expected = torch.cat([positive_on, rest_on]) if hand_on == "before" else hand.handed_on()
    torch.testing.assert_close(out, expected)
    assert float(made.loss) == pytest.approx(BATCH * float((positive + negative).detach()))


def drawn_factors(step: int) -> Tensor:
    drawn = generator(1, "dropout", 0, step).integers(0, 1 << 16, size=(3 * BATCH, WIDTH), dtype=np.uint16)
    return torch.from_numpy(drawn >= (1 << 14)).double() / 0.75


@pytest.mark.parametrize("phases", ["together", "apart"])
def test_dropout_takes_part_in_goodness_gradient_and_what_goes_on(phases: Any) -> None:
    layer = make_layer(dropout=0.25, phases=phases)
    hand = ByHand(layer, drawn_factors(5))
    assert 0.1 < (hand.kept == 0).double().mean() < 0.4
    before = hand.handed_on()
    if phases == "together":
        hand.descend_together()
    else:
        hand.descend(softplus(2.0 - hand.goodness(POSITIVE)).sum() / BATCH)
        before[REST] = hand.handed_on(REST)
        hand.descend(softplus(hand.goodness(NEGATIVE) - 2.0).sum() / BATCH)
    out, _ = learn(layer, step=5)
    close(layer, hand)
    torch.testing.assert_close(out, before)


def test_dropout_is_for_training_alone() -> None:
    (out, goodness), (expected, of_plain) = make_layer(dropout=0.5).score(ROWS), make_layer().score(ROWS)
    assert goodness is not None
    assert of_plain is not None
    assert torch.equal(goodness, of_plain)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_rows_that_go_ahead_of_a_step_are_as_they_would_be_behind_its_pairs(dropout: float) -> None:
    layer = make_layer(dropout=dropout)
    ahead = torch.empty(BATCH, WIDTH, dtype=torch.float64)
    layer.pass_on(ROWS[2 * BATCH :], Step(5), ahead)
    torch.testing.assert_close(ahead, learn(layer, step=5)[0][2 * BATCH :])


def test_initial_weights() -> None:
    normal, glorot = (initial_weight(1, 0, 300, 200, kind) for kind in ("normal", "glorot"))
    assert float(normal.std()) == pytest.approx(300**-0.5, rel=0.02)
    limit = (6 / 500) ** 0.5
    assert float(glorot.abs().max()) == pytest.approx(limit, rel=0.001)
    assert float(glorot.std()) == pytest.approx(limit / 3**0.5, rel=0.01)

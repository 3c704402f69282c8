"""Contrast of goodness through autograd: numbers worked out by hand, and the closed form of dense.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ffpipe import Optimizer, recipe
from ffpipe.learn.block import Step
from ffpipe.learn.contrast import count_errors, make_pair_loss
from ffpipe.learn.dense import FFDense
from ffpipe.learn.goodness import GoodnessContrast
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.rows import normalize_rows_
from ffpipe.learn.spec import NEUTRAL, PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.learn.workspace import Workspace
from ffpipe.system.errors import UserError

LAYOUT = RowLayout(batch=2, learning=PAIRS)
PAIR = RowSpec((2,), torch.float32)
# Two positive rows, then two negative: sums of squares 5, 0 and 1, 4, so the second pair is an error.
ROWS = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("arguments", "loss"),
    [
        # The threshold is the number of values, 2.
        ({}, 0.5 * (softplus(-3) + softplus(-1) + softplus(2) + softplus(2))),
        ({"objective": "softplus"}, softplus(-3) + softplus(-1) + softplus(2) + softplus(2)),
        (
            {"objective": "softplus", "threshold": 1.0, "temperature": 2.0},
            softplus(-2) + softplus(0) + softplus(0.5) + softplus(1.5),
        ),
        # Means of squares 2.5, 0 and 0.5, 2, and a threshold of 1.
        ({"goodness": "mean"}, 0.5 * (softplus(-1.5) + softplus(-0.5) + softplus(1) + softplus(1))),
        ({"objective": "symba"}, softplus(-4) + softplus(4)),
        ({"objective": "symba", "temperature": 0.5}, softplus(-8) + softplus(8)),
    ],
)
def test_loss_of_two_pairs_by_hand(arguments: dict[str, Any], loss: float) -> None:
    learned = GoodnessContrast(PAIR, **arguments)(ROWS, LAYOUT, None)
    assert learned.loss.item() == pytest.approx(loss, rel=1e-6)
    assert (learned.loss.shape, learned.errors.shape, int(learned.errors)) == ((), (), 1)


def test_passing_rows_take_no_part() -> None:
    layout = RowLayout(batch=2, learning=PAIRS, passing=(NEUTRAL,))
    head = GoodnessContrast(PAIR)
    assert head(torch.cat([ROWS, ROWS[:2] + 9]), layout, None) == head(ROWS, LAYOUT, None)


@pytest.mark.parametrize(("goodness", "expected"), [("sum", [30.0, 4.0]), ("mean", [7.5, 1.0])])
@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 2, 2)])
def test_goodness_is_over_all_values_of_a_row(goodness: str, expected: list[float], shape: tuple[int, ...]) -> None:
    h = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 1.0, -1.0]]).view(2, *shape)
    assert GoodnessContrast(RowSpec(shape, torch.float32), goodness=goodness).score(h).tolist() == expected


def test_the_default_threshold_counts_all_values() -> None:
    images = RowSpec((2, 3, 4), torch.float32)
    ones = torch.ones(4, 2, 3, 4)  # goodness 24 is the threshold
    loss = GoodnessContrast(images, objective="softplus")(ones, LAYOUT, None).loss
    assert loss.item() == pytest.approx(4 * math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("normalization", "expected"), [("rms", [0.6 * math.sqrt(2), 0.8 * math.sqrt(2)]), ("l2", [0.6, 0.8])]
)
def test_what_is_handed_on_has_no_length(normalization: str, expected: list[float]) -> None:
    h = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]])
    handed = GoodnessContrast(PAIR, normalization=normalization).hand_on(h)
    torch.testing.assert_close(handed, torch.tensor([expected, expected, [0.0, 0.0]]))
    torch.testing.assert_close(handed, normalize_rows_(h.clone(), normalization))


@pytest.mark.parametrize("normalization", ["rms", "l2"])
@pytest.mark.parametrize("length", [1e-30, 1e-21, 0.0])  # squares that underflow, that are denormal, and none
@pytest.mark.parametrize("differentiated", [False, True])
def test_tiny_rows_are_handed_on_by_one_rule(normalization: str, length: float, differentiated: bool) -> None:
    h = torch.tensor([[length, 0.0], [3.0, 4.0]])
    with torch.no_grad():
        expected = normalize_rows_(h.clone(), normalization)
    with torch.set_grad_enabled(differentiated):
        assert torch.equal(GoodnessContrast(PAIR, normalization=normalization).hand_on(h), expected)
        assert torch.equal(normalize_rows_(h.clone(), normalization), expected)


def test_handing_on_keeps_shape_and_dtype() -> None:
    h = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    h = h.to(memory_format=torch.channels_last)
    handed = GoodnessContrast(RowSpec((2, 4, 4), torch.bfloat16)).hand_on(h)
    assert (handed.shape, handed.dtype) == (h.shape, h.dtype)
    torch.testing.assert_close(handed.float().square().mean((1, 2, 3)), torch.ones(3), rtol=0.02, atol=0)


@pytest.mark.parametrize("objective", ["hinton", "softplus", "symba"])
@pytest.mark.parametrize("goodness", ["sum", "mean"])
def test_gradient_is_that_of_the_closed_form(objective: str, goodness: str) -> None:
    h = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    head = GoodnessContrast(
        RowSpec((5,), torch.float64), goodness=goodness, objective=objective, threshold=2.0, temperature=0.7
    )
    layout = RowLayout(batch=4, learning=PAIRS)
    (gradient,) = torch.autograd.grad(head(h, layout, None).loss, h)
    squares = h.detach().square().sum(1) / (1 if goodness == "sum" else 5)
    slope = make_pair_loss(objective, goodness, 5, 2.0, 0.7)(squares[:4], squares[4:])
    by_hand = torch.cat([slope.positive, slope.negative])[:, None] * 2 * h.detach() / (1 if goodness == "sum" else 5)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda rows: head(rows, layout, None).loss, h)


@pytest.mark.parametrize("normalization", ["rms", "l2"])
def test_handing_on_can_be_differentiated(normalization: str) -> None:
    h = torch.randn(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    head = GoodnessContrast(RowSpec((2, 2), torch.float64), normalization=normalization)
    assert torch.autograd.gradcheck(head.hand_on, h)
    zeros = torch.zeros(1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(head.hand_on(zeros).sum(), zeros)
    assert gradient.isfinite().all()


def test_autocast_does_not_round_goodness() -> None:
    h = torch.full((4, 3), 1.001)
    head = GoodnessContrast(RowSpec((3,), torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learned, goodness = head(h, LAYOUT, None), head.score(h)
    assert learned.loss == head(h, LAYOUT, None).loss
    assert torch.equal(goodness, head.score(h))
    assert head.score(h.bfloat16()).dtype == torch.float32


def test_it_needs_pairs() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        GoodnessContrast(PAIR)(ROWS, RowLayout(batch=4, learning=PLAIN), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"goodness": "means"}, "goodness is 'means': did you mean 'mean'"),
        ({"objective": "softmax"}, "objective is 'softmax': did you mean 'softplus'"),
        ({"normalization": "batch"}, "normalization is 'batch': there are: rms, l2"),
        ({"temperature": 0.0}, "temperature is 0: give a positive number"),
        ({"temperature": math.nan}, "temperature is nan"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GoodnessContrast(PAIR, **arguments)


def test_peer_normalisation_is_that_of_the_closed_form() -> None:
    """A linear map and this objective move their weights as a dense layer does, over several steps."""
    training = replace(recipe("digits").training, dims=(12, 7), peer=0.3, optimizer=Optimizer(learning_rate=0.1))
    dense = FFDense(0, 12, 7, training, Workspace(torch.device("cpu")))
    spec = RowSpec((7,), torch.float32)
    body = nn.Linear(12, 7)
    with torch.no_grad():
        body.weight.copy_(dense.weight.t())
        body.bias.zero_()
    goodness = GoodnessContrast(spec, rectify=True, peer=0.3)
    block = LocalBlock(0, RowSpec((12,), torch.float32), spec, body, goodness, training)
    chance = torch.Generator().manual_seed(0)
    for step in range(5):
        rows = torch.randn(4, 12, generator=chance)
        made = [torch.empty(4, 7) for _ in range(2)]
        with torch.no_grad():
            for each, out in zip((dense, block), made, strict=True):
                each.learn(rows, LAYOUT, None, Step(step), out)
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(body.weight.t(), dense.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(goodness.mean_activity, dense.mean_activity)
    with pytest.raises(UserError, match="peer is -1"):
        GoodnessContrast(spec, peer=-1.0)


def test_the_running_means_stay_in_a_step_that_only_passes_rows_on() -> None:
    training, spec = replace(recipe("digits").training, dims=(12, 7)), RowSpec((7,), torch.float32)
    goodness = GoodnessContrast(spec, rectify=True, peer=0.3)
    block = LocalBlock(0, RowSpec((12,), torch.float32), spec, nn.Linear(12, 7), goodness, training)
    was = {name: kept.clone() for name, kept in block.state().items()}
    with torch.no_grad():
        block.learn(torch.randn(4, 12), LAYOUT, None, Step(0, None), torch.empty(4, 7))
    assert all(torch.equal(kept, was[name]) for name, kept in block.state().items())


def test_logistic_errors_are_fewer_where_both_are_sure() -> None:
    """In float64 both probabilities of a pair are 1 where goodness is far above the threshold: that is not an error."""
    objective = make_pair_loss("hinton", "sum", 10, None, 1.0)
    positive = torch.tensor([100.0, 5.0, 9.0, 30.0, 30.0])
    # float32 has 1 for the probabilities of the last pair, float64 does not.
    negative = torch.tensor([120.0, 8.0, 3.0, 30.0, 40.0])
    assert list(map(int, count_errors(objective, "goodness", positive, negative))) == [3]
    assert list(map(int, count_errors(objective, "logistic", positive, negative))) == [3, 2]

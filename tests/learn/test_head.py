"""The head's step against autograd on the mean cross-entropy."""

from __future__ import annotations

from dataclasses import replace

import torch
from blueprints import blueprint_of, make_stages
from torch import Tensor

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Workspace

TRAINING = Training(
    dims=(6, 5, 4, 3),
    precision="float64",
    head_optimizer=Optimizer(kind="SGD", learning_rate=1.0),
)


def make_head(training: Training = TRAINING) -> Head:
    """Make a head on the last two of three layers."""
    return Head(training, {1: 4, 2: 3}, 3, Workspace(torch.device("cpu")))


def test_one_step_is_the_gradient_of_softmax_regression() -> None:
    random = torch.Generator().manual_seed(3)
    seen = [torch.randn(8, width, dtype=torch.float64, generator=random) for width in (4, 3)]
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])
    head = make_head()
    for step in range(3):
        weights = [weight.clone().requires_grad_() for weight in head.weights().values()]
        logits = seen[0] @ weights[0] + seen[1] @ weights[1]
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        made = head.step(step, seen, labels, 1.0)
        torch.testing.assert_close(made.probabilities, logits.detach().softmax(1), rtol=1e-12, atol=0)
        torch.testing.assert_close(made.loss / 8, loss.detach(), rtol=1e-12, atol=0)
        assert int(made.errors) == int((logits.argmax(1) != labels).sum())
        for weight, after in zip(weights, head.weights().values(), strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(weight.detach() - after, weight.grad, rtol=1e-10, atol=1e-15)


def test_it_leaves_out_the_layers_before_head_from() -> None:
    network = blueprint_of(TRAINING, classes=3)
    assert network.taps == range(1, 3)
    (stage,) = make_stages(network, [range(3)])
    assert stage.head is not None
    assert list(stage.head.weights()) == ["weight.1", "weight.2"]


def test_rows_of_any_shape_are_seen_as_flat_ones() -> None:
    flat = [torch.ones(2, 4, dtype=torch.float64), torch.arange(6, dtype=torch.float64).view(2, 3)]
    shaped = [flat[0].view(2, 1, 2, 2), flat[1].view(2, 3, 1)]
    labels, heads = torch.tensor([0, 2]), [make_head(), make_head()]
    for head, seen in zip(heads, (flat, shaped), strict=True):
        head.step(0, seen, labels, 1.0)
    assert torch.equal(heads[0](flat), heads[1](shaped))
    assert heads[0](flat).any()


def test_it_goes_on_from_its_state() -> None:
    settings = Optimizer(kind="Adam", learning_rate=0.1)
    first, second = (make_head(replace(TRAINING, head_optimizer=settings)) for _ in range(2))
    seen, labels = [torch.ones(2, 4, dtype=torch.float64), torch.eye(2, 3, dtype=torch.float64)], torch.tensor([0, 2])
    first.step(0, seen, labels, 1.0)
    second.load(first.state())
    for head in (first, second):
        head.step(1, seen, labels, 1.0)
    state: dict[str, Tensor] = second.state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state().items())

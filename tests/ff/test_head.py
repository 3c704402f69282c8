"""The head's step against autograd on the mean cross-entropy."""

from __future__ import annotations

import torch

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Workspace

TRAINING = Training(
    dims=(6, 5, 4, 3),
    precision="float64",
    head_optimizer=Optimizer(kind="SGD", learning_rate=1.0),
)


def test_one_step_is_the_gradient_of_softmax_regression() -> None:
    random = torch.Generator().manual_seed(3)
    seen = [torch.randn(8, width, dtype=torch.float64, generator=random) for width in (4, 3)]
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])
    head = Head(TRAINING, 3, Workspace(torch.device("cpu")))
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
    assert list(Head(TRAINING, 3, Workspace(torch.device("cpu"))).weights()) == ["weight.1", "weight.2"]

"""A user's loss function: how it is called, what it may return, and what is said of anything else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffpipe.learn.spec import PAIRS, PLAIN, POSITIVE, RowLayout
from ffpipe.learn.user_objective import FunctionObjective
from ffpipe.system.errors import UserError

LAYOUT = RowLayout(batch=3, learning=PLAIN)
LABELS = torch.tensor([0, 1, 1])


def rows() -> Tensor:
    return torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], requires_grad=True)


def squares(h: Tensor, labels: Tensor) -> Tensor:
    return h.square().sum(1).mean()


def test_the_mean_becomes_a_sum() -> None:
    h = rows()
    learned = FunctionObjective(squares)(h, LAYOUT, LABELS)
    assert learned.loss.item() == pytest.approx(14)  # 1 + 4 + 9
    assert learned.errors.isnan()
    (learned.loss / 3).backward()
    torch.testing.assert_close(h.grad, 2 * h.detach() / 3)


@pytest.mark.parametrize("errors", [2, 2.0, torch.tensor(2), torch.tensor(2.0)])
def test_errors_may_come_with_the_loss(errors: Any) -> None:
    learned = FunctionObjective(lambda h, labels: (squares(h, labels), errors))(rows(), LAYOUT, LABELS)
    assert (learned.loss.item(), learned.errors.item(), learned.errors.shape) == (pytest.approx(14), 2, ())


def with_layout(h: Tensor, labels: Tensor | None, layout: RowLayout) -> Tensor:
    return h[layout[POSITIVE]].mean()


def with_optional_layout(h: Tensor, labels: Tensor | None, layout: RowLayout | None = None) -> Tensor:
    assert layout is not None
    return with_layout(h, labels, layout)


def with_option(h: Tensor, labels: Tensor | None, weight: float = 0.5) -> Tensor:
    return h.mean() * weight


def with_any(*arguments: Any) -> Tensor:
    assert len(arguments) == 2
    mean: Tensor = arguments[0].mean()
    return mean


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, h: Tensor, labels: Tensor | None, layout: RowLayout) -> Tensor:
        return self.scaled(with_layout(h, labels, layout))

    def scaled(self, h: Tensor) -> Tensor:
        return self.scale * h


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (with_layout, 4.0),
        (with_optional_layout, 4.0),
        (with_option, 1.0),
        (partial(with_option, weight=2.0), 4.0),
        (with_any, 2.0),
        (Scaled(), 8.0),
    ],
)
def test_what_it_is_called_with(function: Callable[..., Tensor], expected: float) -> None:
    h = torch.tensor([[4.0], [0.0]], requires_grad=True)
    learned = FunctionObjective(function, roles=PAIRS)(h, RowLayout(batch=1, learning=PAIRS), None)
    assert learned.loss.item() == expected


@pytest.mark.parametrize("function", [cross_entropy, nn.CrossEntropyLoss()])
def test_losses_of_torch_are_taken_as_they_are(function: Callable[..., Tensor]) -> None:
    learned = FunctionObjective(function)(rows(), LAYOUT, LABELS)
    by_hand = math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + math.log1p(math.exp(3))
    assert learned.loss.item() == pytest.approx(by_hand)


def test_a_module_is_trained_with_the_block() -> None:
    objective = FunctionObjective(Scaled(), roles=PAIRS)
    assert [name for name, _ in objective.named_parameters()] == ["function.scale"]
    assert objective.roles == PAIRS


def test_score_is_a_function_too() -> None:
    h = rows()
    assert FunctionObjective(squares).score(h) is None
    scores = FunctionObjective(squares, score=lambda h: h.sum(1)).score(h)
    assert scores is not None
    assert scores.tolist() == [1.0, 2.0, 3.0]
    assert FunctionObjective(squares).hand_on(h) is h


def test_a_rounded_loss_is_summed_in_float32() -> None:
    learned = FunctionObjective(lambda h, labels: h.mean().bfloat16())(rows(), LAYOUT, LABELS)
    assert (learned.loss.dtype, learned.loss.item()) == (torch.float32, 3.0)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda h: h.sum(1), r"returned a float32 tensor of shape \(3,\): return the mean"),
        (lambda h: h.argmax(), r"returned a int64 tensor of shape \(\)"),
        (lambda h: h.mean().item(), "returned a value of type float: return"),
        (lambda h: None, "returned None"),
        (lambda h: (h.mean(), 1, 2), "returned a value of type tuple"),
        (lambda h: h.detach().mean(), "that does not require grad: compute it from h"),
        (lambda h: (h.mean(), h.sum(1)), r"returned a float32 tensor of shape \(3,\) for errors"),
        (lambda h: (h.mean(), None), "returned None for errors"),
    ],
)
def test_results_that_are_refused(result: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FunctionObjective(lambda h, labels: result(h))(rows(), LAYOUT, LABELS)


def test_a_loss_needs_no_gradient_where_none_is_taken() -> None:
    objective = FunctionObjective(squares)
    with torch.no_grad():
        assert objective(rows(), LAYOUT, LABELS).loss.item() == pytest.approx(14)
    assert objective(rows().detach(), LAYOUT, LABELS).loss.item() == pytest.approx(14)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda h: h.mean(), r"takes \(h\): make it take \(h, labels\) or \(h, labels, layout\)"),
        (lambda h, labels, layout, step: h.mean(), r"takes \(h, labels, layout, step\)"),
        (lambda h, labels, *, margin: h.mean(), "takes .*margin"),
        (lambda **options: None, r"takes \(\*\*options\)"),
        ("squares", "loss function is a value of type str"),
    ],
)
def test_functions_that_are_refused(function: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FunctionObjective(function)


class Judge:
    """A loss and a score in methods, by weights that nobody trains; and a body, which neither of them names."""

    def __init__(self, head: nn.Linear) -> None:
        self.heads, self.body = [head], nn.Linear(2, 2)

    def score(self, h: Tensor) -> Tensor:
        made: Tensor = sum(head(h) for head in self.heads)
        return made

    def loss(self, h: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.score(h), labels)

    def plain(self, h: Tensor, labels: Tensor) -> Tensor:
        return squares(h, labels) if len(h) else self.plain(h, labels)


class Called(Judge):
    __call__ = Judge.loss


def by_default(head: nn.Linear) -> Callable[..., Tensor]:
    def loss(h: Tensor, labels: Tensor, head: nn.Linear = head) -> Tensor:
        return cross_entropy(head(h), labels)

    return loss


def by_name(head: nn.Linear) -> Callable[..., Tensor]:
    def loss(h: Tensor, labels: Tensor, *, heads: dict[str, nn.Linear] | None = {"one": head}) -> Tensor:  # noqa: B006
        assert heads is not None
        return cross_entropy(heads["one"](h), labels)

    return loss


def by_helper(head: nn.Linear) -> Callable[..., Tensor]:
    def score(h: Tensor) -> Tensor:
        return torch.as_tensor(head(h))

    return lambda h, labels: cross_entropy(score(h), labels)


@dataclass(slots=True)
class Slotted:
    head: nn.Linear

    def loss(self, h: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.head(h), labels)


def by_object(head: nn.Linear) -> Callable[..., Tensor]:
    judge = Judge(head)
    return lambda h, labels: judge.loss(h, labels)


HOLDING: dict[str, Callable[[nn.Linear], Callable[..., Tensor]]] = {
    "a closure": lambda head: lambda h, labels: cross_entropy(head(h), labels),
    "a partial": lambda head: partial(lambda h, labels, head: cross_entropy(head(h), labels), head=head),
    "a bound method": lambda head: Judge(head).loss,
    "a callable object": Called,
    "an object in a closure": by_object,
    "a default": by_default,
    "a default by name, in a dictionary": by_name,
    "a helper in a closure": by_helper,
    "a method of an object with slots": lambda head: Slotted(head).loss,
    "a list in a closure": lambda head: (lambda heads: lambda h, labels: cross_entropy(heads[0](h), labels))([head]),
}


@pytest.mark.parametrize("way", HOLDING)
def test_weights_that_would_not_be_trained_are_refused(way: str) -> None:
    held = "holds a value of type Linear with weights, which would not be trained: give a module"
    function, frozen = HOLDING[way](nn.Linear(2, 2)), HOLDING[way](nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(UserError, match=f"loss function .*{held}"):
        FunctionObjective(function)
    with pytest.raises(UserError, match=f"score function .*{held}"):
        FunctionObjective(squares, score=function)
    assert FunctionObjective(frozen, score=frozen).scorer is frozen


@pytest.mark.parametrize("weight", [nn.Parameter(torch.zeros(2, 2)), torch.zeros(2, 2, requires_grad=True)])
def test_tensors_that_would_not_be_trained_are_refused(weight: Tensor) -> None:
    with pytest.raises(UserError, match=r"holds a float32 tensor of shape \(2, 2\) with weights"):
        FunctionObjective(lambda h, labels: (h @ weight).mean())


def test_a_method_written_in_c_holds_what_it_is_of() -> None:
    with pytest.raises(UserError, match=r"score function .* holds a float32 tensor of shape \(2,\) with weights"):
        FunctionObjective(squares, score=nn.Parameter(torch.zeros(2)).add)


GENERATORS: dict[str, Callable[[], Any]] = {
    "of torch": lambda: torch.Generator().manual_seed(3),
    "of NumPy": lambda: np.random.default_rng(3),
    "of NumPy's old kind": lambda: np.random.RandomState(3),
    "of Python": lambda: random.Random(3),
    "by a method of it": lambda: np.random.default_rng(3).random,
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_whose_state_would_not_be_saved_is_refused(kind: str) -> None:
    own, refused = GENERATORS[kind](), "function .* holds a generator, whose state is not saved: draw from torch's own"
    with pytest.raises(UserError, match=f"loss {refused}"):
        FunctionObjective(lambda h, labels: (own, squares(h, labels))[1])
    with pytest.raises(UserError, match=f"score {refused}"):
        FunctionObjective(squares, score=lambda h: (own, h)[1])


@pytest.mark.parametrize("shared", [torch.default_generator, np.random.random, random.gauss])
def test_generators_that_each_step_sets_may_be_held(shared: Any) -> None:
    assert FunctionObjective(squares, score=lambda h: (shared, h)[1]).scorer is not None


def test_a_method_may_have_a_body_beside_that_it_does_not_name() -> None:
    judge = Judge(nn.Linear(2, 2))
    assert FunctionObjective(judge.plain).function == judge.plain


def test_a_score_of_a_loss_module_is_its_method() -> None:
    module = Scaled()
    assert FunctionObjective(module, score=module.scaled).scorer == module.scaled
    # A copy of the block would still have the first module in this closure, with the weights that it began with.
    with pytest.raises(UserError, match=r"score function .* holds a value of type Scaled with weights"):
        FunctionObjective(module, score=lambda h: module.scaled(h))

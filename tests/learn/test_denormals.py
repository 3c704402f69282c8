"""Numbers that have become too small for their format are zero, and nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.block import Step
from ffpipe.learn.denormals import EVERY, flush_denormals, flush_optimizer, is_due
from ffpipe.learn.dense import FFDense
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.readout import Head
from ffpipe.learn.spec import PAIRS, RowLayout
from ffpipe.learn.updates import make_update
from ffpipe.learn.workspace import Workspace

CPU = torch.device("cpu")
LEAST = torch.finfo(torch.float32).tiny


def test_small_becomes_zero_in_place() -> None:
    numbers = torch.tensor([1e-40, -1e-38, 7e-37, 8e-37, -8e-37, 0.0, 1.0, float("inf"), float("nan")])
    count = torch.tensor([3])
    flush_denormals([numbers, count])
    wanted = torch.tensor([0.0, 0.0, 0.0, 8e-37, -8e-37, 0.0, 1.0, float("inf"), float("nan")])
    assert torch.equal(numbers.nan_to_num(-1.0), wanted.nan_to_num(-1.0))
    assert count.item() == 3


def test_a_wider_format_has_smaller_numbers() -> None:
    numbers = torch.tensor([1e-40, 1e-307], dtype=torch.float64)
    flush_denormals([numbers])
    assert numbers.tolist() == [1e-40, 0.0]


def test_it_is_due_after_every_so_many_updates() -> None:
    assert [step for step in range(3 * EVERY) if is_due(step)] == [EVERY - 1, 2 * EVERY - 1, 3 * EVERY - 1]
    assert [step for step in range(9) if is_due(step, EVERY // 4)] == [3, 7]
    assert all(is_due(step, 2 * EVERY) for step in range(5))


def test_of_an_optimizer_of_torch_only_means_of_gradients_are_settled() -> None:
    state = {"exp_avg": torch.tensor([1e-40]), "exp_avg_sq": torch.tensor([1e-40]), "step": torch.tensor(1e-40)}
    flush_optimizer([state, {"momentum_buffer": None}])
    assert [tensor.item() != 0 for tensor in state.values()] == [False, True, True]


def is_denormal(tensor: Tensor) -> Tensor:
    return (tensor != 0) & (tensor.abs() < LEAST)


def trained(training: Training, steps: Iterable[int]) -> tuple[FFDense, int]:
    """Train on rows of which one column, a pixel, is lit in the first minibatch alone; and after how many steps there
    were denormal numbers. steps: by their numbers."""
    layer = FFDense(0, 6, 5, training, Workspace(CPU))
    chance = torch.Generator().manual_seed(1)
    denormal = 0
    for count, step in enumerate(steps):
        rows = torch.rand(8, 6, generator=chance)
        if count:
            rows[:, 2] = 0
        rows = rows.to(PRECISIONS[training.precision].products)
        layer.learn(rows, RowLayout(4, PAIRS), None, Step(step), torch.empty(8, 5, dtype=rows.dtype))
        state = [tensor.flatten() for tensor in layer.state().values() if tensor.dtype == torch.float32]
        denormal += bool(is_denormal(torch.cat(state)).any())
    return layer, denormal


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(Training(peer=0.0), id="averaging"),
        pytest.param(
            Training(peer=0.0, optimizer=Optimizer(kind="AdamW", learning_rate=0.001), precision="bfloat16"), id="AdamW"
        ),
        pytest.param(Training(peer=0.0, precision="bfloat16", local_steps=3), id="local steps", marks=pytest.mark.long),
        pytest.param(
            Training(
                peer=0.0,
                optimizer=Optimizer(kind="Adam", learning_rate=0.001),
                phases="apart",
                objective="softplus",
            ),
            id="phases apart",
            marks=pytest.mark.long,
        ),
    ],
)
def test_averages_are_never_denormal_and_weights_those_they_would_be(training: Training) -> None:
    steps = range(1_000)  # 0.9 ** 830 is the least normal number
    settled, denormal = trained(training, steps)
    assert denormal == 0
    never_due = (step for step in itertools.count() if not is_due(step, training.updates))
    left, denormal = trained(training, itertools.islice(never_due, len(steps)))
    assert denormal > 0
    for name, tensor in settled.weights().items():
        assert torch.equal(tensor, left.weights()[name])


def test_what_a_centered_optimizer_needs_is_left() -> None:
    """The root of square_avg - grad_avg ** 2, of gradients as of pairs that are told apart by far."""
    weight = torch.ones(2, 2)
    optimizer = Optimizer(kind="RMSprop", learning_rate=0.001, options={"centered": True})
    update = make_update(weight, None, optimizer, weight, Workspace(CPU))
    nothing = torch.zeros(1, 2)
    update.step(nothing, nothing, 1, 1.0)
    update.state()["weight.square_avg"].fill_(1e-39)
    update.state()["weight.grad_avg"].fill_(1e-20)
    update.flush_denormals()
    update.step(nothing, nothing, 1, 1.0)
    assert weight.isfinite().all()


def test_averages_of_the_head_are_never_denormal() -> None:
    head = Head(Training(), {1: 4}, 3, Workspace(CPU))
    labels = torch.tensor([0, 1])
    for step in range(1_000):
        head.step(step, [torch.full((2, 4), 0.0 if step else 1.0)], labels, 1.0)
    assert not any(is_denormal(tensor).any() for tensor in head.state().values())

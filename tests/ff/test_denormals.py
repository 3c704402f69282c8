"""What has become too small for its format is zero, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffpipe.config import Optimizer, Training
from ffpipe.ff import layer as layer_module
from ffpipe.ff.denormals import EVERY, is_due, settle
from ffpipe.ff.head import Head
from ffpipe.ff.layer import Layer
from ffpipe.ff.workspace import Workspace

CPU = torch.device("cpu")
LEAST = torch.finfo(torch.float32).tiny


def test_small_becomes_zero_in_place() -> None:
    numbers = torch.tensor([1e-40, -1e-38, 7e-37, 8e-37, -8e-37, 0.0, 1.0, float("inf"), float("nan")])
    count = torch.tensor([3])
    settle([numbers, count])
    wanted = torch.tensor([0.0, 0.0, 0.0, 8e-37, -8e-37, 0.0, 1.0, float("inf"), float("nan")])
    assert torch.equal(numbers.nan_to_num(-1.0), wanted.nan_to_num(-1.0))
    assert count.item() == 3


def test_a_wider_format_has_smaller_numbers() -> None:
    numbers = torch.tensor([1e-40, 1e-307], dtype=torch.float64)
    settle([numbers])
    assert numbers.tolist() == [1e-40, 0.0]


def test_it_is_due_after_every_so_many_updates() -> None:
    assert [step for step in range(3 * EVERY) if is_due(step)] == [EVERY - 1, 2 * EVERY - 1, 3 * EVERY - 1]
    assert [step for step in range(9) if is_due(step, EVERY // 4)] == [3, 7]
    assert all(is_due(step, 2 * EVERY) for step in range(5))


def is_denormal(tensor: Tensor) -> Tensor:
    return (tensor != 0) & (tensor.abs() < LEAST)


def trained(optimizer: Optimizer, precision: str, steps: int) -> Layer:
    """On rows of which one column, a pixel, is lit in the first minibatch alone."""
    training = Training(precision=precision, optimizer=optimizer, peer=0.0)  # type: ignore[arg-type]  # str
    layer = Layer(0, 6, 5, training, Workspace(CPU))
    chance = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.rand(8, 6, generator=chance)
        if step:
            rows[:, 2] = 0
        rows = rows.to(layer._factor.dtype)
        layer.step(step, rows, 4, 1.0, torch.empty(8, 5, dtype=rows.dtype))
    return layer


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["averaging", "Adam"])
def test_weights_are_the_same_to_the_bit_and_averages_are_never_denormal(
    kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 1_000  # 0.9 ** 830 is the least normal number
    optimizer = Optimizer(kind=kind, learning_rate=0.001)
    settled = trained(optimizer, precision, steps)
    assert not any(is_denormal(tensor).any() for tensor in settled.state().values())
    monkeypatch.setattr(layer_module, "is_due", lambda step, updates: False)
    left = trained(optimizer, precision, steps)
    assert any(is_denormal(tensor).any() for tensor in left.state().values())
    for name, tensor in settled.weights().items():
        assert torch.equal(tensor, left.weights()[name])


def test_averages_of_the_head_are_never_denormal() -> None:
    head = Head(Training(dims=(6, 5, 4), head_from=1), 3, Workspace(CPU))
    labels = torch.tensor([0, 1])
    for step in range(1_000):
        head.step(step, [torch.full((2, 4), 0.0 if step else 1.0)], labels, 1.0)
    assert not any(is_denormal(tensor).any() for tensor in head.state().values())

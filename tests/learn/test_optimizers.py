"""Optimisers of torch do without its compiler, and compute the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from ffpipe.config.schema import Optimizer
from ffpipe.learn.optim import NamedOptimizer
from ffpipe.system.optimizers import uncompiled


def test_no_optimiser_loads_the_compiler_of_torch() -> None:
    """It would be 75 MB and more than a second of each process."""
    program = """
import sys, torch
from ffpipe.config.optimizer import OWN_FORMS, check_optimizer, torch_optimizers
from ffpipe.config.schema import Optimizer
from ffpipe.learn.optim import NamedOptimizer
fast = [("Adam", {"fused": True}), ("Adam", {"foreach": True}), ("SGD", {"fused": True, "momentum": 0.9})]
for kind, options in [*((kind, {}) for kind in ("averaging", *OWN_FORMS, *torch_optimizers())), *fast]:
    settings = Optimizer(kind=kind, learning_rate=0.01, options=options)
    check_optimizer("training.optimizer", settings)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = NamedOptimizer({"weight": weight}, settings)
    (weight**2).sum().backward()
    optimizer.step(1.0)
    optimizer.load(optimizer.state())
    assert not (weight == 1).all() and weight.grad is None and weight.requires_grad, kind
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("kind", ["Adam", "Adadelta", "ASGD", "RMSprop", "SGD"])
def test_without_the_compiler_an_optimiser_of_torch_computes_the_same(kind: str) -> None:
    made: Any = getattr(torch.optim, kind)
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)) for _ in range(2)]
    for weight, cls in zip(weights, (made, uncompiled(made)), strict=True):
        optimizer = cls([weight], lr=0.1)
        for _ in range(3):
            weight.grad = None
            (weight**3).sum().backward()
            optimizer.step()
    assert torch.equal(*weights)


FUSED = [(kind, {"fused": True}) for kind in ("Adam", "AdamW", "SGD", "Adagrad")]
IN_ANY_ORDER = {
    "channels last": lambda: torch.ones(5, 4, 3, 3).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.ones(4, 6).t(),
}


@pytest.mark.parametrize("order", IN_ANY_ORDER)
@pytest.mark.parametrize(("kind", "options"), [*FUSED, ("Adam", {}), ("Adafactor", {})])
def test_one_that_goes_on_has_its_state_as_its_weights_lie(kind: str, options: dict[str, Any], order: str) -> None:
    """A file keeps rows one after the other, and fused steps take state and weights as they lie in memory."""
    momentum = {"momentum": 0.9} if kind == "SGD" else {}
    settings = Optimizer(kind=kind, learning_rate=0.01, options={**options, **momentum})
    (first, one), (second, other) = (
        (weight, NamedOptimizer({"w": weight}, settings))
        for weight in (torch.nn.Parameter(IN_ANY_ORDER[order]()) for _ in range(2))
    )

    def step(weight: torch.nn.Parameter, optimizer: NamedOptimizer, index: int) -> None:
        slope = torch.rand(weight.shape, generator=torch.Generator().manual_seed(index))
        weight.grad = torch.empty_like(weight).copy_(slope)
        optimizer.step(1.0)

    for index in range(2):
        step(first, one, index)
    with torch.no_grad():
        second.copy_(first)
    other.load({name: tensor.contiguous().clone() for name, tensor in one.state().items()})
    for index in range(2, 4):
        step(first, one, index)
        step(second, other, index)
    assert torch.equal(first, second)
    assert {n: t.stride() for n, t in one.state().items()} == {n: t.stride() for n, t in other.state().items()}

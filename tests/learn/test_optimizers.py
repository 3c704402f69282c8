"""Optimisers of torch do without its compiler, and compute the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

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

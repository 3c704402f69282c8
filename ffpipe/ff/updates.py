"""How a gradient becomes an update of one weight matrix and its bias.

Both kinds take the gradient in the form in which a Forward-Forward layer has it: the input rows and
the derivative of the loss by the total input, whose product is the gradient of the weights.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ffpipe.config import Optimizer


class Update(Protocol):
    """Changes a weight (fan_in, width) and, where there is one, a bias (width,) in place."""

    def step(self, rows: Tensor, delta: Tensor, examples: int, factor: float) -> None:
        """rows: (n, fan_in); delta: (n, width), dLoss/d(total input), summed over rows and divided by
        `examples`; factor: on the learning rate."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name; the tensors themselves, not copies."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class Averaging:
    """Momentum by exponential averaging, as in Hinton's program (ffnew.m).

        average <- a * average + (1 - a) * gradient
        weight  <- weight - rate * (average + decay * weight);  bias <- bias - rate * average

    The gradient is one matrix product that accumulates straight into the average.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, settings: Optimizer) -> None:
        self.weight = weight
        self.bias = bias
        self.settings = settings
        self.weight_average = torch.zeros_like(weight)
        self.bias_average = None if bias is None else torch.zeros_like(bias)

    def step(self, rows: Tensor, delta: Tensor, examples: int, factor: float) -> None:
        keep = self.settings.averaging
        rate = self.settings.learning_rate * factor
        share = (1.0 - keep) / examples
        self.weight_average.addmm_(rows.t(), delta, beta=keep, alpha=share)
        self.weight.mul_(1.0 - rate * self.settings.weight_decay).add_(self.weight_average, alpha=-rate)
        if self.bias is not None and self.bias_average is not None:
            self.bias_average.mul_(keep).add_(delta.sum(0), alpha=share)
            self.bias.add_(self.bias_average, alpha=-rate)

    def state(self) -> dict[str, Tensor]:
        state = {"weight_average": self.weight_average}
        return state if self.bias_average is None else state | {"bias_average": self.bias_average}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class TorchUpdate:
    """Any optimiser of torch.optim, one instance a layer; weight decay is of the weights alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None, settings: Optimizer) -> None:
        self.rate = settings.learning_rate
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.weight.grad = torch.zeros_like(weight)
        groups: list[dict[str, Any]] = [{"params": [self.weight], "weight_decay": settings.weight_decay}]
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        if self.bias is not None:
            self.bias.grad = torch.zeros_like(self.bias)
            groups.append({"params": [self.bias], "weight_decay": 0.0})
        cls = getattr(torch.optim, settings.kind)
        self.optimizer: torch.optim.Optimizer = cls(groups, lr=self.rate, **settings.options)

    def step(self, rows: Tensor, delta: Tensor, examples: int, factor: float) -> None:
        assert self.weight.grad is not None
        torch.mm(rows.t(), delta, out=self.weight.grad).div_(examples)
        if self.bias is not None and self.bias.grad is not None:
            torch.sum(delta, 0, out=self.bias.grad).div_(examples)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.step()

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}

    def state(self) -> dict[str, Tensor]:
        kept = {}
        for name, parameter in self._parameters().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                kept[f"{name}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return kept

    def load(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters().items():
            prefix = f"{name}."
            self.optimizer.state[parameter] = {
                key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)
            }


def make_update(weight: Tensor, bias: Tensor | None, settings: Optimizer) -> Update:
    """The update that `training.optimizer` or `training.head_optimizer` asks for."""
    if settings.kind == "averaging":
        return Averaging(weight, bias, settings)
    return TorchUpdate(weight, bias, settings)

"""The way from a gradient to an update of one weight matrix and its bias.

Both kinds take the gradient in the form in which a Forward-Forward layer has it: the input rows and
the derivative of the loss by the total input, whose product is the gradient of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffpipe.config.schema import Optimizer
from ffpipe.learn.denormals import flush_denormals
from ffpipe.learn.optim import NamedOptimizer
from ffpipe.learn.products import accumulate, mm
from ffpipe.learn.threads import total
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import TensorSpec


class Averaging:
    """Momentum by exponential averaging, as in Hinton's program (ffnew.m).

        average <- a * average + (1 - a) * gradient
        weight  <- weight - rate * (average + decay * weight);  bias <- bias - rate * average

    The gradient is one matrix product that accumulates straight into the average.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, settings: Optimizer) -> None:
        self.weight, self.bias, self.settings = weight, bias, settings
        self.weight_average = _zeros(weight)
        self.bias_average = None if bias is None else _zeros(bias)

    def step(self, rows: Tensor, delta: Tensor, examples: int, factor: float) -> None:
        """Update in place. rows: (n, fan_in); delta: (n, width), dLoss/d(total input), summed over rows and divided by
        `examples`; factor: on the learning rate."""
        share, rate = (1.0 - self.settings.averaging) / examples, self.settings.learning_rate * factor
        self._step_weight(rows, delta, share, rate)
        if self.bias is not None:
            self._step_bias(total(delta, 0), share, rate)

    def _step_weight(self, rows: Tensor, delta: Tensor, share: float, rate: float) -> None:
        """Update the average and the weight. share: of the summed gradient in the new average."""
        accumulate(self.weight_average, rows.t(), delta, self.settings.averaging, share)
        self.weight.mul_(1.0 - rate * self.settings.weight_decay).add_(self.weight_average, alpha=-rate)

    def apply(self, gradient: Tensor, bias_gradient: Tensor | None, examples: int, factor: float) -> None:
        """Do as `step` with gradients that are summed over rows: (fan_in, width), and (width,) where there is a
        bias. They are used up."""
        share, rate = (1.0 - self.settings.averaging) / examples, self.settings.learning_rate * factor
        self.weight_average.mul_(self.settings.averaging).add_(gradient, alpha=share)
        self.weight.mul_(1.0 - rate * self.settings.weight_decay).add_(self.weight_average, alpha=-rate)
        if bias_gradient is not None:
            self._step_bias(bias_gradient, share, rate)

    def _step_bias(self, gradient: Tensor, share: float, rate: float) -> None:
        if self.bias is not None and self.bias_average is not None:
            self.bias_average.mul_(self.settings.averaging).add_(gradient, alpha=share)
            self.bias.add_(self.bias_average, alpha=-rate)

    def flush_denormals(self) -> None:
        flush_denormals(self.state().values())

    def state(self) -> dict[str, Tensor]:
        state = {"weight_average": self.weight_average}
        return state if self.bias_average is None else state | {"bias_average": self.bias_average}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def contents(self, steps: int) -> dict[str, TensorSpec]:
        return {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in self.state().items()}


class MixedAveraging(Averaging):
    """Averaging where the gradient's product is made in another format than the weight's.

    Block by block of the weight's rows, so that a block's product is still in the cache when it is added to
    the average: on the CPU the product of a large layer is small work beside moving its weight.
    """

    # Rows in a block. At widths 1000 to 4000, 256 was the best of 32 to 512, or within 5 % of it.
    BLOCK = 256

    def __init__(
        self, weight: Tensor, bias: Tensor | None, settings: Optimizer, operand: Tensor, workspace: Workspace
    ) -> None:
        super().__init__(weight, bias, settings)
        self._operand, self._workspace = operand, workspace

    def _step_weight(self, rows: Tensor, delta: Tensor, share: float, rate: float) -> None:
        take = self._workspace.take
        rounded = take("delta", tuple(delta.shape), self._operand.dtype).copy_(delta)
        for first in range(0, len(self.weight), self.BLOCK):
            block = slice(first, first + self.BLOCK)
            average, weight = self.weight_average[block], self.weight[block]
            shape = tuple(weight.shape)
            product = mm(rows[:, block].t(), rounded, out=take("gradient", shape, rounded.dtype))
            gradient = take("gradient", shape, weight.dtype).copy_(product)
            average.mul_(self.settings.averaging).add_(gradient, alpha=share)
            weight.mul_(1.0 - rate * self.settings.weight_decay).add_(average, alpha=-rate)
            self._operand[block].copy_(weight)

    def apply(self, gradient: Tensor, bias_gradient: Tensor | None, examples: int, factor: float) -> None:
        super().apply(gradient, bias_gradient, examples, factor)
        self._operand.copy_(self.weight)


class TorchUpdate:
    """Any optimiser of torch.optim, one instance a layer; weight decay is of the weights alone."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, settings: Optimizer, operand: Tensor, workspace: Workspace
    ) -> None:
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self._operand, self._workspace = operand, workspace
        parameters = {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}
        self._optimizer = NamedOptimizer(parameters, settings)
        self.state, self.load = self._optimizer.state, self._optimizer.load
        self.flush_denormals = self._optimizer.flush_denormals

    def step(self, rows: Tensor, delta: Tensor, examples: int, factor: float) -> None:
        take, shape = self._workspace.take, tuple(self.weight.shape)
        gradient = take("gradient", shape, self.weight.dtype)
        product = mm(rows.t(), delta.to(rows.dtype), out=take("gradient", shape, self._operand.dtype))
        if product.dtype != gradient.dtype:  # else they are one piece of the workspace
            gradient.copy_(product)
        self.apply(gradient, None if self.bias is None else total(delta, 0), examples, factor)

    def apply(self, gradient: Tensor, bias_gradient: Tensor | None, examples: int, factor: float) -> None:
        self.weight.grad = gradient.div_(examples)
        if self.bias is not None and bias_gradient is not None:
            self.bias.grad = bias_gradient.div_(examples)
        self._optimizer.step(factor)  # which lets go of the gradients: they may be the next layer's workspace
        if self._operand.dtype != self.weight.dtype:
            self._operand.copy_(self.weight)

    def contents(self, steps: int) -> dict[str, TensorSpec]:
        # A weight of a layer has a gradient in every step.
        return {name: kept._replace(optional=False) for name, kept in self._optimizer.contents(steps).items()}


# Updates in place of a weight (fan_in, width) and, where there is one, of a bias (width,).
Update = Averaging | TorchUpdate


def gradient_of(weight: Tensor, rows: Tensor, delta: Tensor) -> Tensor:
    """Multiply rows (n, fan_in) and delta (n, width): their share of a weight's gradient, in memory of its own."""
    return mm(rows.t(), delta.to(rows.dtype)).to(weight.dtype)


def _zeros(like: Tensor) -> Tensor:
    """Make zeros as torch.zeros_like does, which takes 40 MB of a process that calls it on the meta device."""
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def make_update(
    weight: Tensor, bias: Tensor | None, settings: Optimizer, operand: Tensor, workspace: Workspace
) -> Update:
    """Make the update that `training.optimizer` or `training.head_optimizer` asks for. operand: what products read:
    `weight` itself, or a copy of it in another format, which every step renews."""
    if settings.kind != "averaging":
        return TorchUpdate(weight, bias, settings, operand, workspace)
    if operand is weight:
        return Averaging(weight, bias, settings)
    return MixedAveraging(weight, bias, settings, operand, workspace)

"""Optimisers of named parameters: one of torch.optim, or Hinton's averaging, whose state can be saved by name."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ffpipe.config.schema import Optimizer
from ffpipe.learn.denormals import flush_optimizer
from ffpipe.learn.thread_count import one_thread
from ffpipe.storage.checkpoint import TensorSpec
from ffpipe.system.optimizers import uncompiled

# Optimisers that are not element-wise: their norms and means are over whole weights.
SUMMING = (torch.optim.Adafactor,)
# Sizes of the axes of a parameter on which an optimiser is tried: each tells its axis.
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


class Averaging(torch.optim.Optimizer):
    """Momentum by exponential averaging, as in Hinton's program (ffnew.m; updates.py has it in closed form)."""

    def __init__(
        self, params: Iterable[Any], lr: float = 0.01, averaging: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "averaging": averaging, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's may return a loss, this has none
        for group in self.param_groups:
            keep, rate = group["averaging"], group["lr"]
            for parameter in group["params"]:
                # As torch's own do: a parameter that no loss has reached neither decays nor gets a state.
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                average = state["exp_avg"].mul_(keep).add_(parameter.grad, alpha=1.0 - keep)
                parameter.mul_(1.0 - rate * group["weight_decay"]).add_(average, alpha=-rate)


class KerasAdam(torch.optim.Adam):
    """Adam as Keras has it: epsilon is added to sqrt(v) before the bias of v is corrected.

        weight <- weight - rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)

    It is the efficient form of Kingma and Ba (arXiv 1412.6980, end of section 2); torch divides by
    sqrt(v / (1 - b2^t)) + epsilon. So torch's step t is made with epsilon / sqrt(1 - b2^t).
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.001, eps: float = 1e-7, **options: Any) -> None:
        super().__init__(params, lr=lr, eps=eps, **options)
        # A group for each parameter, as each has a count of its own.
        groups, self.param_groups = self.param_groups, []
        for group in groups:
            for parameter in group["params"]:
                self.add_param_group({**group, "params": [parameter]})
        self._epsilon = eps

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's may return a loss, this has none
        for group in self.param_groups:
            (parameter,) = group["params"]
            done = float(self.state[parameter]["step"]) if self.state[parameter] else 0.0
            group["eps"] = self._epsilon / math.sqrt(1.0 - group["betas"][1] ** (done + 1.0))
        inspect.unwrap(torch.optim.Adam.step)(self)  # super().step() would load the compiler (system/optimizers.py)


OWN: dict[str, Any] = {"averaging": Averaging, "KerasAdam": KerasAdam}


class Optimizing(Protocol):
    """An optimiser whose state can be saved."""

    def flush_denormals(self) -> None:
        """Make zero what is about to become denormal (denormals.py)."""

    def state(self) -> dict[str, Tensor]:
        """Give what a snapshot keeps, by name; the tensors themselves, not copies."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""

    def contents(self, steps: int) -> dict[str, TensorSpec]:
        """Give shapes and dtypes of what `state` has after so many steps, which no count in it exceeds."""


class NamedOptimizer:
    """An optimiser of parameters by name. Weight decay is of what has two dimensions or more: matrices and
    kernels, not vectors such as biases."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: Optimizer) -> None:
        self.parameters = dict(parameters)
        self._settings, self._rate = settings, settings.learning_rate
        decayed = [p for p in self.parameters.values() if p.dim() > 1]
        others = [p for p in self.parameters.values() if p.dim() <= 1]
        if any(p.is_meta for p in self.parameters.values()):  # where torch has no fused steps
            settings = replace(settings, options={k: v for k, v in settings.options.items() if k != "fused"})
        groups = [(decayed, settings.weight_decay), (others, 0.0)]
        if not settings.weight_decay:  # one group, since each takes time in every step
            groups = [(decayed + others, 0.0)]
        cls: Any = uncompiled(OWN.get(settings.kind) or getattr(torch.optim, settings.kind))
        options = {"averaging": settings.averaging} if settings.kind == "averaging" else settings.options
        self._optimizer: torch.optim.Optimizer = cls(
            [{"params": p, "weight_decay": decay} for p, decay in groups if p], lr=settings.learning_rate, **options
        )

    def step(self, factor: float) -> None:
        """Make a step by the gradients of the parameters, which are then dropped. factor: on the learning rate."""
        for group in self._optimizer.param_groups:
            # From the first rate each time: a run that goes on has no rate of the step before.
            group["lr"] = self._rate * factor
        with one_thread() if isinstance(self._optimizer, SUMMING) else nullcontext():
            self._optimizer.step()
        # Not zero_grad(), which does more in every step, for torch's profiler and compiler.
        for parameter in self.parameters.values():
            parameter.grad = None

    def flush_denormals(self) -> None:
        flush_optimizer(self._optimizer.state.values())

    def state(self) -> dict[str, Tensor]:
        """Return what a snapshot keeps, as PARAMETER.NAME; the tensors themselves, not copies."""
        kept = {}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                kept[f"{name}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return kept

    def contents(self, steps: int) -> dict[str, TensorSpec]:
        """Give what `state` has after so many steps, without making one. A parameter that no loss has reached yet has
        no state."""
        found = {}
        for name, parameter in self.parameters.items():
            for key, axes, dtype in _state_of(json.dumps(asdict(self._settings)), parameter.dim(), parameter.dtype):
                shape = tuple(1 if axis is None else parameter.shape[axis] for axis in axes)
                found[f"{name}.{key}"] = TensorSpec(shape, dtype, steps if key == "step" else None, optional=True)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        # torch numbers parameters by group.
        numbers = {p: n for n, p in enumerate(p for group in self._optimizer.param_groups for p in group["params"])}
        of_each: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            name, _, kind = key.rpartition(".")
            if name in self.parameters:
                # A copy, as torch keeps the tensor itself where device and dtype are right.
                of_each.setdefault(numbers[self.parameters[name]], {})[kind] = value.clone()
        # torch knows what of it belongs on the parameter's device; but it also gives all of it the parameter's dtype,
        # where NAdam and ASGD count in float32.
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": of_each})
        for parameter, number in numbers.items():
            loaded = self._optimizer.state[parameter]
            for key, value in of_each.get(number, {}).items():
                kept = loaded[key].to(value.dtype)
                # In memory as the parameter lies there, which a file does not keep: fused steps go by memory alone.
                if parameter.dim() > 1 and kept.shape == parameter.shape:
                    kept = torch.empty_like(parameter, dtype=kept.dtype).copy_(kept)
                loaded[key] = kept


@cache
def _state_of(
    settings: str, dims: int, dtype: torch.dtype
) -> tuple[tuple[str, tuple[int | None, ...], torch.dtype], ...]:
    """Name, axes of the parameter (None: of size 1) and dtype of each tensor of state: seen on a small parameter.
    settings: as JSON, which can be hashed where their dictionary of options cannot."""
    parameter = nn.Parameter(torch.zeros(PRIMES[:dims], dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = NamedOptimizer({"p": parameter}, Optimizer(**json.loads(settings)))
    optimizer.step(1.0)
    return tuple(
        (name.removeprefix("p."), tuple(None if n == 1 else PRIMES.index(n) for n in tensor.shape), tensor.dtype)
        for name, tensor in optimizer.state().items()
    )

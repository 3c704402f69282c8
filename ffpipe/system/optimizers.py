"""Optimisers of torch without torch's compiler, which has nothing to do here.

Making one of torch.optim imports torch._dynamo, to exempt the optimiser's methods from it: 75 MB and 1.7 s of
each process (torch 2.13).
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch

# The methods that torch wraps for its compiler and that are called here, beside `step`.
WRAPPED = ("add_param_group", "state_dict", "load_state_dict")


@cache
def uncompiled(cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return an optimiser class of torch.optim, or one made from it, with its methods as they were before torch wrapped
    them for its compiler. It computes the same numbers."""
    computed = inspect.unwrap(cls.step)

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            return computed(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it once more, for profilers and hooks

    def reduce(self: torch.optim.Optimizer) -> tuple[Any, ...]:
        return _bare, (cls,), self.__getstate__()

    plain = {name: inspect.unwrap(getattr(cls, name)) for name in WRAPPED}
    # The class made here has no name by which pickle would find it.
    return type(cls.__name__, (cls,), {"__doc__": cls.__doc__, "step": step, "__reduce__": reduce, **plain})


def _bare(cls: Any) -> torch.optim.Optimizer:
    """Make an optimiser for pickle, which sets what it had."""
    made = uncompiled(cls)
    return made.__new__(made)

"""Descriptions of what came in place of something else, as a part of a line."""

from __future__ import annotations

import inspect

from torch import Tensor


def described(came: object) -> str:
    """Name a tensor by its dtype and shape, a class or function by its name, and anything else by its type."""
    if isinstance(came, Tensor):
        return f"a {str(came.dtype).removeprefix('torch.')} tensor of shape {tuple(came.shape)}"
    if isinstance(came, type):
        return f"the class {came.__name__}"
    if inspect.isroutine(came):
        return f"the function {getattr(came, '__name__', '')}".rstrip()
    return "None" if came is None else f"a value of type {type(came).__name__}"


def instead_of(came: object, meant: str) -> str:
    """Return a closing phrase: what would be right where this came. meant: as "a torch module"."""
    if isinstance(came, type):
        return f"give an instance, as {came.__name__}(): add the parentheses"
    return f"give {meant}"

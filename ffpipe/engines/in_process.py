"""What the engines share whose stages are all in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ffpipe.config.schema import Execution
from ffpipe.system.errors import RunFailed, UserError

T = TypeVar("T")


def refuse_without_gpu(execution: Execution) -> None:
    """Raises UserError where this process is to compute on a GPU that is not here."""
    if execution.first_device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device is 'cuda', but torch finds no GPU here: give --device cpu")


def with_reason(work: Callable[[], T], who: str = "a stage") -> T:
    """Work that fails as it does where stages are actors. Raises RunFailed for no memory or numbers beyond counting."""
    try:
        return work()
    except (MemoryError, ArithmeticError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise RunFailed(f"{who} failed: {type(error).__name__}: {reason}") from error


def as_stages(work: Callable[[], T]) -> T:
    """The work of all stages, which fails as theirs. Raises RunFailed too for what they cannot read any more."""
    try:
        return with_reason(work)
    except UserError as error:
        raise RunFailed(f"a stage failed: {error}") from error

"""A test of whether torch records what is computed, for a program that computes it elsewhere."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """Tell whether torch.export, torch.compile or torch.jit.trace follows what is computed. Then there is nothing to be
    tried on tensors, which may lie nowhere, and no decision may hang on the number of rows."""
    return torch.compiler.is_compiling() or is_traced()


def is_traced() -> bool:
    """Tell whether torch.jit.trace follows what is computed, to which sizes are tensors."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]  # torch has no hints for it

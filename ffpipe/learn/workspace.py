"""Buffers that hold nothing between steps, shared by all who compute in turn: their number does not grow with depth."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


class Workspace:
    """Memory by name and format, as large as the largest that was asked for so far."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor with whatever is in it, good until the name is asked for again."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < size:
            # The old one goes before the new one comes.
            buffer = self._buffers[name, dtype] = torch.empty(0, dtype=dtype, device=self.device)
            buffer = self._buffers[name, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return buffer[:size].view(shape)


class OutputsInTurn:
    """Outputs of a stage's last layer in a few buffers in turn, each free again by the time its turn comes."""

    def __init__(self, workspace: Workspace, turns: int) -> None:
        self._workspace = workspace
        self._turns = itertools.cycle(range(turns))

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Do as `Workspace.take`, with the next buffer."""
        return self._workspace.take(f"output {next(self._turns)}", shape, dtype)

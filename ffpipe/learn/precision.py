"""The number formats in which weights are kept and products are made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Precision(NamedTuple):
    """weights: of weights, optimiser state and sums. products: of what enters a matrix product, and so of streams."""

    weights: torch.dtype
    products: torch.dtype


PRECISIONS = {
    "float32": Precision(torch.float32, torch.float32),
    "float64": Precision(torch.float64, torch.float64),
    "bfloat16": Precision(torch.float32, torch.bfloat16),
}


def wide(values: Tensor) -> Tensor:
    """Give numbers in float32 at least: sums and slopes of shorter ones overflow, and hide what is small."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Formats(nn.Module):
    """The number formats of a module that has it as a part, and is converted with it (`double`, `half`, `to`)."""

    def __init__(self, made: Precision) -> None:
        """made: those in which the module was made."""
        super().__init__()
        self._made = made
        self._weight: Tensor
        # Weights would tell as well, but not every block has any.
        self.register_buffer("_weight", torch.empty(0, dtype=made.weights), persistent=False)

    @property
    def now(self) -> Precision:
        """The formats at present: those in which it was made, or after a conversion that of the weights for all."""
        dtype = self._weight.dtype
        return self._made if dtype == self._made.weights else Precision(dtype, dtype)

"""In which number format weights are kept and products are made."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """weights: of weights, optimiser state and sums. products: of what enters a matrix product, and so of streams."""

    weights: torch.dtype
    products: torch.dtype


PRECISIONS = {
    "float32": Precision(torch.float32, torch.float32),
    "float64": Precision(torch.float64, torch.float64),
    "bfloat16": Precision(torch.float32, torch.bfloat16),
}

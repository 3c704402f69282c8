"""Pixels of images by their places, moved by index and never interpolated; it must not know why they move."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def gathered(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return pixels (rows[b, y], columns[b, x]) of each image b, as (B, y, x * channels).

    grid: (B, height, width, channels). rows: int64 (B, y), 0..height, and columns: int64 (B, x), 0..width, the last
    of which are blank. Rows are copied whole, and one index then serves all rows of an image: on one thread of an
    EPYC that took 0.8 ms for 128 images of CIFAR, and torch's grid[b, y, x] 2.5 ms.
    """
    count, height, width, channels = grid.shape
    # One blank line and one blank pixel stand for all places outside, however far a crop may reach.
    lines = pad(grid, (0, 0, 0, 1, 0, 1)).reshape(count * (height + 1), (width + 1) * channels)
    line = torch.arange(count)[:, None] * (height + 1) + rows
    chosen = lines.index_select(0, line.flatten().to(grid.device)).reshape(count, rows.shape[1], -1)
    value = (columns.unsqueeze(2) * channels + torch.arange(channels)).flatten(1).to(grid.device)
    return chosen.gather(2, value.unsqueeze(1).expand(-1, rows.shape[1], -1))


def blank_outside(place: Tensor, side: int) -> Tensor:
    """Return places along a side, those beyond it as `side`, which is blank."""
    return place.masked_fill((place < 0) | (place >= side), side)

"""How a label becomes part of an input row: it replaces the first features, or follows the last one."""

from __future__ import annotations

import torch
from torch import Tensor


class LabelCode:
    """One-hot labels times `strength`; the neutral label puts strength / classes in every place.

    kind "overlay" writes over the first `classes` features (Hinton, arXiv 2212.13345, section 3.3),
    "append" adds `classes` features at the end.
    """

    def __init__(self, kind: str, features: int, classes: int, strength: float) -> None:
        self.features = features
        self.classes = classes
        self.strength = strength
        self.width = features if kind == "overlay" else features + classes
        self._place = slice(0, classes) if kind == "overlay" else slice(features, features + classes)

    def write(self, out: Tensor, images: Tensor, labels: Tensor | None) -> None:
        """Fill `out` (rows, width) from images (rows, features) and labels (rows,) int64, or neutral where None."""
        out[:, : self.features] = images
        place = out[:, self._place]
        if labels is None:
            place.fill_(self.strength / self.classes)
        else:
            place.zero_()
            place.scatter_(1, labels.unsqueeze(1), self.strength)

    def every_label(self, images: Tensor) -> Tensor:
        """Each image (n, features) under each label: (n * classes, width), the labels of one image side by side."""
        rows = images.repeat_interleave(self.classes, dim=0)
        out = rows.new_empty(len(rows), self.width)
        self.write(out, rows, torch.arange(self.classes).repeat(len(images)))
        return out

    def neutral(self, images: Tensor) -> Tensor:
        """Each image (n, features) under the neutral label: (n, width)."""
        out = images.new_empty(len(images), self.width)
        self.write(out, images, None)
        return out

"""How a label becomes part of an input row: it replaces the first features, follows the last one, or stays out."""

from __future__ import annotations

import torch
from torch import Tensor


class LabelCode:
    """One-hot labels times `strength`; the neutral label puts strength / classes in every place.

    kind "overlay" writes over the first `classes` features (Hinton, arXiv 2212.13345, section 3.3),
    "append" adds `classes` features at the end, "none" leaves the image alone.
    """

    def __init__(self, kind: str, features: int, classes: int, strength: float) -> None:
        self.features = features
        self.classes = classes
        self.strength = strength
        self.width = features + (classes if kind == "append" else 0)
        places = {"overlay": slice(0, classes), "append": slice(features, features + classes), "none": slice(0, 0)}
        self._place = places[kind]

    def write(self, out: Tensor, images: Tensor, labels: Tensor | None) -> None:
        """Fill `out` (rows, width) from images (rows, features) and labels (rows,) int64, or neutral where None."""
        out[:, : self.features] = images
        place = out[:, self._place]
        if not place.shape[1]:
            return
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

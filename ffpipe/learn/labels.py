"""The way of a label into an input row: over its first features, behind the last one, as planes, or not at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LabelCode:
    """One-hot labels times `strength`; the neutral label puts strength / classes in every place.

    kind "overlay" writes over the first `classes` features (Hinton, arXiv 2212.13345, section 3.3), "append" adds
    `classes` features at the end, "planes" a plane of pixels a class, "none" leaves the image alone. shape: of an
    image, for planes.
    """

    def __init__(self, kind: str, features: int, classes: int, strength: float, shape: tuple[int, ...] = ()) -> None:
        self.features = features
        self.classes = classes
        self.strength = strength
        # Values that tell of one class.
        self._each = math.prod(shape[:2]) if kind == "planes" else 1
        added = classes * self._each if kind in ("append", "planes") else 0
        self.width = features + added
        self._place = {"overlay": slice(0, classes), "none": slice(0, 0)}.get(kind, slice(features, self.width))

    def write(self, out: Tensor, images: Tensor, labels: Tensor | None) -> None:
        """Fill `out` (rows, width) from images (rows, features) and labels (rows,) int64, or neutral where None."""
        out[:, : self.features] = images
        place = out[:, self._place]
        # Not by the shape of `place`: no decision may hang on sizes that torch.jit.trace records.
        if self._place.start == self._place.stop:
            return
        if labels is None:
            place.fill_(self.strength / self.classes)
        else:
            place.zero_()
            planes = place.unflatten(1, (self.classes, self._each))
            planes.scatter_(1, labels.view(-1, 1, 1).expand(-1, 1, self._each), self.strength)

    def every_label(self, images: Tensor) -> Tensor:
        """Put each image (n, features) under each label: (n * classes, width), the labels of one image side by side."""
        rows = images.repeat_interleave(self.classes, dim=0)
        out = rows.new_empty(rows.shape[0], self.width)
        self.write(out, rows, torch.arange(self.classes, device=images.device).repeat(images.shape[0]))
        return out

    def neutral(self, images: Tensor) -> Tensor:
        """Put each image (n, features) under the neutral label: (n, width)."""
        out = images.new_empty(images.shape[0], self.width)
        self.write(out, images, None)
        return out

"""What one message carries from stage to stage: detached activations and what the head and the tally need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Features = dict[int, Tensor]


@dataclass
class Streams:
    """The payload of one item; every field but `rows` may be absent.

    rows: (minibatches, n, features), normalised activities of the last layer so far; within a minibatch
        positive, negative, then neutral rows (Evaluate: every label of each image, then neutral rows).
    labels: (minibatches, B) int64, of the neutral rows (Evaluate: of the images).
    goodness: (images * classes,), summed over the layers so far (Evaluate only).
    features: neutral rows (minibatches, B, width) by layer, for the head; only those that the last stage
        does not get as `rows`.
    """

    rows: Tensor
    labels: Tensor | None = None
    goodness: Tensor | None = None
    features: Features = field(default_factory=dict)

    def to_arrays(self) -> tuple[Any, Any, Any]:
        """rows, labels, goodness as NumPy arrays (or None) in host memory, without their features."""
        return _array(self.rows), _array(self.labels), _array(self.goodness)

    @staticmethod
    def from_arrays(rows: Any, labels: Any, goodness: Any, device: torch.device) -> Streams:
        """The reverse of `to_arrays`. The arrays may be read-only: nobody writes into a stream."""
        return Streams(
            torch.from_numpy(rows).to(device),
            None if labels is None else torch.from_numpy(labels).to(device),
            None if goodness is None else torch.from_numpy(goodness).to(device),
        )


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.cpu().numpy()

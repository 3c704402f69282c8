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
        """rows, labels, goodness as NumPy arrays (or None) in host memory, without the features."""
        return to_array(self.rows), to_array(self.labels), to_array(self.goodness)

    @staticmethod
    def from_arrays(rows: Any, labels: Any, goodness: Any, device: torch.device) -> Streams:
        """The reverse of `to_arrays`. The arrays may be read-only: nobody writes into a stream."""
        tensor = to_tensor(rows, device)
        assert tensor is not None
        return Streams(tensor, to_tensor(labels, device), to_tensor(goodness, device))


# NumPy has no bfloat16: its bits travel as this type, which no stream uses for itself.
BFLOAT16_BITS = torch.int16


def to_array(tensor: Tensor | None) -> Any:
    """A tensor as a NumPy array in host memory; None stays None."""
    if tensor is None:
        return None
    tensor = tensor.cpu()
    return tensor.view(BFLOAT16_BITS).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_tensor(array: Any, device: torch.device) -> Tensor | None:
    """The reverse of `to_array`."""
    if array is None:
        return None
    tensor = torch.from_numpy(array).to(device)
    return tensor.view(torch.bfloat16) if tensor.dtype == BFLOAT16_BITS else tensor

"""The contents of a message: named tensors within a process, the same as NumPy arrays between processes and on disk.

    x             (minibatches, n, *shape)     rows: those that blocks learn from, then those that only pass
    labels        (minibatches, B, ...) int64  of the rows that the read-out sees (ahead of the pairs beside them, by
                                               `negative_lag` minibatches), or of the examples
    score         (rows, ...)                  evaluations: what blocks so far say, summed
    wrong, loss   (blocks, portions) float64   evaluations: of each block so far, summed over each portion (tally.py);
                                               wrong without negatives alone
    prediction.S  (B, classes) float32         of minibatch S, to the other replicas of the first stage (delivery.py)
    tap.I         (minibatches, B, *shape)     what block I hands on, for the read-out
    kept.NAME     (minibatches, n, *shape)     what a block keeps for a later one

In an evaluation there is one minibatch, of as many rows as the item has.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.pipeline.schedule import Item

X, LABELS, SCORE, WRONG, LOSS = "x", "labels", "score", "wrong", "loss"
TAP, KEPT, PREDICTION = "tap.", "kept.", "prediction."

Tensors = dict[str, Tensor]
Value = TypeVar("Value")


class Array(NamedTuple):
    """A tensor in host memory: its dtype by torch's name, and a NumPy array of its numbers, or of bits of their size
    where NumPy does not know the dtype."""

    dtype: str
    data: NDArray[Any]


Arrays = dict[str, Array]
# By size, for dtypes that NumPy lacks. A view as bits copies nothing, and messages stay as small as their tensors.
BITS = {1: torch.uint8, 2: torch.int16}
FOREIGN = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Packet:
    """One sender's share of the message for an item. arrays: by name; there may be none."""

    item: Item
    arrays: Arrays = field(default_factory=dict)


def predictions_among(values: Mapping[str, Value]) -> dict[int, Value]:
    """Return the predictions among named tensors or arrays, by minibatch."""
    return {int(name.removeprefix(PREDICTION)): value for name, value in values.items() if name.startswith(PREDICTION)}


def to_arrays(tensors: Tensors) -> Arrays:
    """Return the tensors in host memory, not copied where they are there already."""
    return {name: _to_array(tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()}


def to_tensors(arrays: Arrays, device: torch.device) -> Tensors:
    """Reverse `to_arrays`. The arrays may be read-only: nobody writes into what came in a message."""
    # Arrays of the object store and of files are read-only, of which torch warns; a copy to quiet it would cost more.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return {name: _to_tensor(array).to(device) for name, array in arrays.items()}


def _to_array(tensor: Tensor) -> Array:
    name = str(tensor.dtype).removeprefix("torch.")
    return Array(name, (tensor.view(BITS[tensor.element_size()]) if name in FOREIGN else tensor).numpy())


def _to_tensor(array: Array) -> Tensor:
    tensor = torch.from_numpy(array.data)
    return tensor.view(FOREIGN[array.dtype]) if array.dtype in FOREIGN else tensor

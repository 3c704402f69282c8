"""Parameters and buffers of a module that a block may keep: real numbers, each in memory of its own without gaps.

Layerwise training writes the memory of each tensor to a file and frees it, and a snapshot is copied back into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ffpipe.system.errors import UserError


def refuse_complex(module: nn.Module, where: str) -> None:
    """Raise UserError for complex numbers, which torch would make real with a warning. where: names the module."""
    for _, name, tensor in _tensors(module):
        if tensor.is_complex():
            raise UserError(f"{where} has {name!r} of {tensor.dtype}, which cannot be trained here: give real numbers")


def refuse_changed(rows: Sequence[Tensor], versions: Sequence[int], where: str) -> None:
    """Raise UserError where rows, or labels among them, have been written into since they had these versions: others
    read them too."""
    if [each._version for each in rows] != list(versions):
        raise UserError(
            f"{where} writes into the rows that it gets or into their labels, which others read too: let it make new "
            "ones (as by inplace=False, or x.clone() first)"
        )


def refuse_views(module: nn.Module, where: str) -> None:
    """Raise UserError where a tensor is a view of numbers of another one: with memory of its own it would follow that
    no more. where: names the module."""
    places: dict[int, dict[int, tuple[str, range]]] = {}
    for _, name, tensor in _tensors(module):
        # Not by data_ptr(), which is 0 for all on META and for all that are empty.
        others = places.setdefault(int(tensor.untyped_storage()._cdata), {})
        _, here = others.setdefault(id(tensor), (name, _extent(tensor)))
        for key, (other, each) in others.items():
            if key != id(tensor) and here.start < each.stop and each.start < here.stop:
                raise UserError(f"{where}: {other!r} and {name!r} have numbers in common: give one a copy, by .clone()")


@torch.no_grad()
def give_own_memory(module: nn.Module) -> None:
    """Give each tensor memory of its own, without gaps, in the order of dimensions that it has.

    Others may have the same memory, in this module or in the program that made it; and NumPy's cannot be freed, and
    begins anywhere in a line of the cache.
    """
    copies: dict[int, Tensor] = {}
    for owner, name, tensor in list(_tensors(module)):
        if id(tensor) not in copies:  # a tensor with two names stays one
            copies[id(tensor)] = tensor.clone() if tensor.numel() else torch.empty_like(tensor)
        copy = copies[id(tensor)]
        if isinstance(tensor, nn.Parameter):
            tensor.data = copy
        else:
            setattr(owner, name.rpartition(".")[2], copy)


def convert(module: nn.Module, **to: Any) -> None:
    """Convert a module as `Module.to` does, which alone would make two of a buffer with two names."""
    every, one = list(_tensors(module)), dict[int, Tensor]()
    module.to(**to)
    for owner, name, tensor in every:
        if not isinstance(tensor, nn.Parameter):
            own = name.rpartition(".")[2]
            setattr(owner, own, one.setdefault(id(tensor), getattr(owner, own)))


def _tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield the module that has it, its whole name, and each parameter and buffer."""
    for path, owner in module.named_modules():
        # Under every name: of a buffer with two, both must get the copy.
        every: dict[str, bool] = {"recurse": False, "remove_duplicate": False}
        for name, tensor in (*owner.named_parameters(**every), *owner.named_buffers(**every)):
            yield owner, f"{path}.{name}" if path else name, tensor


def _extent(tensor: Tensor) -> range:
    """Return the bytes of its storage between which the numbers of a tensor lie, gaps included."""
    first, size = tensor.storage_offset(), tensor.element_size()
    last = sum(stride * (length - 1) for stride, length in zip(tensor.stride(), tensor.shape, strict=True))
    return range(first * size, (first + last + 1 if tensor.numel() else first) * size)

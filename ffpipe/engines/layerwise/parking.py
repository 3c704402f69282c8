"""A stage off duty: its tensors in a file, their memory given back, everything else as it was.

Tensors keep their identity (an optimiser holds on to them) and lose their storage until they are fetched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest

from ffpipe.system.errors import StageLost


class Parkable(Protocol):
    """What can be parked."""

    def kept(self) -> Sequence[Tensor]:
        """Tensors whose contents must come back; each fills its storage, no two share one."""

    def scratch(self) -> Sequence[Tensor]:
        """Tensors that need their memory back and no contents."""

    def renew(self) -> None:
        """Make what can be made from the rest, after a fetch."""


@dataclass(frozen=True)
class Slip:
    """What is needed to fetch: the file, and the size and checksum of each kept tensor."""

    path: Path
    sizes: tuple[int, ...]
    checksums: tuple[int, ...]
    scratch: tuple[int, ...]


def park(stage: Parkable, path: Path) -> Slip:
    """Write what is kept and free all of it. Raises OSError; nothing is freed then."""
    kept, scratch = stage.kept(), stage.scratch()
    checksums = []
    # What is there is written over: new pages cost a file system several times what its own do.
    with path.open("r+b" if path.exists() else "wb") as file:
        for tensor in kept:
            host = tensor.detach().cpu()
            data = _bytes(host)
            checksums.append(xxh3_64_intdigest(data))
            file.write(data)
        file.truncate()
    sizes = tuple(tensor.untyped_storage().nbytes() for tensor in kept)
    of_scratch = tuple(tensor.untyped_storage().nbytes() for tensor in scratch)
    leave(stage)
    return Slip(path, sizes, tuple(checksums), of_scratch)


def leave(stage: Parkable) -> None:
    """Free a stage that is as it was when it was parked: its file is still good."""
    for tensor in (*stage.kept(), *stage.scratch()):
        tensor.untyped_storage().resize_(0)


@torch.no_grad()
def fetch(stage: Parkable, slip: Slip) -> None:
    """Bring a parked stage back. Raises StageLost where its file is not what was written."""
    kept, scratch = stage.kept(), stage.scratch()
    for tensor, size in zip((*kept, *scratch), (*slip.sizes, *slip.scratch), strict=True):
        tensor.untyped_storage().resize_(size)
    try:
        with slip.path.open("rb") as file:
            for tensor, checksum in zip(kept, slip.checksums, strict=True):
                host = tensor if tensor.device.type == "cpu" else torch.empty_like(tensor, device="cpu")
                data = _bytes(host)
                if file.readinto(data) != len(data) or xxh3_64_intdigest(data) != checksum:
                    raise StageLost(f"parked stage {slip.path} was cut or altered")
                if host is not tensor:
                    tensor.copy_(host)
    except OSError as error:
        raise StageLost(f"parked stage {slip.path} cannot be read: {error.strerror or error}") from None
    stage.renew()


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, valid while the tensor is. Tensor.numpy() would pin the storage."""
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")

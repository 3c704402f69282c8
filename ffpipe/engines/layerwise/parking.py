"""A stage off duty: its tensors in a file, their memory given back, everything else as it was.

Tensors keep their identity (an optimiser holds on to them) and lose their storage until they are fetched.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest

from ffpipe.pipeline.stage import Stage
from ffpipe.system.errors import StageLost, reason


@dataclass(frozen=True)
class ParkedStage:
    """All that is needed to fetch a stage: its file, bytes of each tensor's storage, a checksum of each kept tensor."""

    path: Path
    sizes: tuple[int, ...]
    checksums: tuple[int, ...]


def park(stage: Stage, path: Path) -> ParkedStage:
    """Write what is kept and free all of it. Raises OSError; nothing is freed then."""
    checksums = []
    # Old pages are written over: new pages cost a file system several times what its own do.
    with path.open("r+b" if path.exists() else "wb") as file:
        for tensor in stage.parked():
            host = tensor.detach().cpu()
            data = _bytes(host)
            checksums.append(xxh3_64_intdigest(data))
            file.write(data)
        file.truncate()
    # The sizes are enough for scratch: `renew` makes what was in it.
    sizes = tuple(tensor.untyped_storage().nbytes() for tensor in (*stage.parked(), *stage.scratch()))
    leave(stage)
    return ParkedStage(path, sizes, tuple(checksums))


def leave(stage: Stage) -> None:
    """Free a stage that is as it was when it was parked: its file is still good."""
    for tensor in (*stage.parked(), *stage.scratch()):
        tensor.untyped_storage().resize_(0)


@torch.no_grad()
def fetch(stage: Stage, parked_stage: ParkedStage) -> None:
    """Bring a parked stage back. Raises StageLost where its file is not what was written."""
    kept = stage.parked()
    for tensor, size in zip((*kept, *stage.scratch()), parked_stage.sizes, strict=True):
        tensor.untyped_storage().resize_(size)
    try:
        with parked_stage.path.open("rb") as file:
            for tensor, checksum in zip(kept, parked_stage.checksums, strict=True):
                host = tensor if tensor.device.type == "cpu" else torch.empty_like(tensor, device="cpu")
                data = _bytes(host)
                if file.readinto(data) != len(data) or xxh3_64_intdigest(data) != checksum:
                    raise StageLost(f"parked stage {parked_stage.path} was cut or altered")
                if host is not tensor:
                    tensor.copy_(host)
    except OSError as error:
        raise StageLost(f"parked stage {parked_stage.path} cannot be read: {reason(error)}") from None
    stage.renew()


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU, valid while the tensor is."""
    # Tensor.numpy() would pin the storage, which is to be freed.
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")

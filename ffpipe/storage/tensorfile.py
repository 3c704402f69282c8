"""safetensors files piece by piece, so that nobody holds a whole file beside the tensors that go into it.

    8 bytes (little endian): length of the header | header, JSON | the tensors' bytes, one after the other

The format: https://huggingface.co/docs/safetensors. Files are read by the safetensors library, which does not write so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


def order(state: Mapping[str, Tensor]) -> list[str]:
    """Return names in the order of their tensors: by falling alignment, so that each begins where it may."""
    return sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))


def header(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes before those of the tensors, which have to follow in `order`. No tensor needs its contents."""
    told: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order(state):
        tensor = state[name]
        start, end = end, end + tensor.nbytes
        told[name] = {"dtype": DTYPES[tensor.dtype], "shape": tuple(tensor.shape), "data_offsets": (start, end)}
    text = json.dumps(told, separators=(",", ":")).encode()
    # Readers map the file, and a tensor's first number has to lie on a multiple of its size.
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def data(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, in place where it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def pieces(state: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a whole file of these tensors."""
    yield header(state)
    for name in order(state):
        yield data(state[name])

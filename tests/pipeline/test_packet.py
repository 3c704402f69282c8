"""Tensors that travel come out as they went in, whatever their dtype, and in memory that nobody writes into."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from ffpipe.pipeline.packet import FOREIGN, Array, Packet, to_arrays, to_tensors
from ffpipe.pipeline.schedule import Train

CPU = torch.device("cpu")
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
SHAPES = [(2, 3, 5), (), (0, 4), (1,)]


def made(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return any bits, but for bools, which are 0 or 1."""
    chance = torch.Generator().manual_seed(seed)
    top = 2 if dtype == torch.bool else 256
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, top, (size,), dtype=torch.uint8, generator=chance).view(dtype).view(shape)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether both have the same dtype, shape and bits, NaN included."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other) if each.numel()]
    return not bits or torch.equal(*bits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = {"x": made(dtype, shape, 1), "kept.a": made(dtype, shape, 2)}
    arrays = to_arrays(tensors)
    assert arrays.keys() == tensors.keys()
    for array in arrays.values():
        assert array.dtype == str(dtype).removeprefix("torch.")
        assert array.data.shape == shape
        assert array.data.itemsize == dtype.itemsize
    back = to_tensors(arrays, CPU)
    assert back.keys() == tensors.keys()
    assert all(same_bits(tensor, tensors[name]) for name, tensor in back.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_through_the_hands_of_another_process(dtype: torch.dtype) -> None:
    """Pickled out of band, as Ray does it: arrays come out read-only, and without a warning."""
    tensor = made(dtype, (4, 3))
    buffers: list[pickle.PickleBuffer] = []
    packet = Packet(Train(0, 1), to_arrays({"x": tensor}))
    sent = pickle.dumps(packet, protocol=5, buffer_callback=buffers.append)
    arrived: Packet = pickle.loads(sent, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert arrived.item == Train(0, 1)
    assert isinstance(arrived.arrays["x"], Array)
    assert not arrived.arrays["x"].data.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = to_tensors(arrived.arrays, CPU)
    assert same_bits(back["x"], tensor)
    assert same_bits(back["x"].clone(), tensor)


def test_what_is_in_host_memory_is_not_copied() -> None:
    for dtype in DTYPES:
        tensor = made(dtype, (4, 3))
        arrays = to_arrays({"x": tensor})
        assert arrays["x"].data.ctypes.data == tensor.data_ptr()
        assert to_tensors(arrays, CPU)["x"].data_ptr() == tensor.data_ptr()


def test_strided_tensors_and_those_with_a_gradient() -> None:
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    weight = torch.randn(3, 4, requires_grad=True)
    tensors = {"images": images, "turned": weight.t(), "some": torch.arange(20).view(4, 5)[1:3, ::2]}
    back = to_tensors(to_arrays(tensors), CPU)
    for name, tensor in tensors.items():
        assert same_bits(back[name], tensor.detach())
        assert back[name].is_contiguous()
        assert not back[name].requires_grad


def test_dtypes_that_numpy_lacks_are_told_apart_from_their_bits() -> None:
    for name, dtype in FOREIGN.items():
        foreign = made(dtype, (6,))
        arrays = to_arrays({"x": foreign})
        bits = torch.from_numpy(arrays["x"].data)
        assert arrays["x"].dtype == name
        assert bits.dtype in (torch.uint8, torch.int16)
        back = to_tensors({**arrays, "bits": to_arrays({"bits": bits})["bits"]}, CPU)
        assert (back["x"].dtype, back["bits"].dtype) == (dtype, bits.dtype)


def test_a_message_may_carry_nothing() -> None:
    assert to_arrays({}) == {}
    assert to_tensors({}, CPU) == {}
    assert Packet(Train(0, 1)).arrays == {}


def test_arrays_of_files_that_are_only_read() -> None:
    """As those of a spool: memory-mapped, and not to be written into."""
    data = np.frombuffer(made(torch.float32, (12,)).numpy().tobytes(), dtype=np.float32).reshape(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tensor,) = to_tensors({"x": Array("float32", data)}, CPU).values()
    assert tensor.data_ptr() == data.ctypes.data

"""Replicas on one host exchange sums by shared memory: the numbers arrive as they were sent, whatever their sizes."""

from __future__ import annotations

import gc
import os
import socket
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from ffpipe.learn.shards import fold
from ffpipe.pipeline.packet import Arrays, to_arrays
from ffpipe.pipeline.reducer import Reducer
from ffpipe.pipeline.shared_sums import AVAILABLE, SharedSums
from ffpipe.system.errors import RunFailed
from ffpipe.system.memory import LARGE_ARRAY, unmap_large

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="sums go by messages where there is no memory without a name")
CHANNELS = (f"test-{os.getpid()}-{number}" for number in count())
# Shapes of sums, in turn: some are empty, and the large ones are taken out of the process again. Seven of them, so that
# each of the two slots has all.
SIZES = ((3,), (5, 7), (), (0, 4), (LARGE_ARRAY // 2 + 1,), (2, 3, 4), (LARGE_ARRAY // 4,))


def sums_of(number: int, replica: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 * number + replica)
    kinds = (torch.float32, torch.bfloat16, torch.float64)
    shapes = [SIZES[(number + place) % len(SIZES)] for place in range(1 + number % 3)]
    return [torch.randn(shape, generator=generator, dtype=kinds[number % 3]) for shape in shapes]


def joined(replicas: int) -> tuple[list[Reducer], list[SharedSums]]:
    """Return the reducers of so many replicas, and their ways to each other."""
    channel, reducers, ways = next(CHANNELS), list[Reducer](), list[SharedSums]()

    def send(replica: int, number: int, name: str, sums: Arrays) -> None:
        ways[replica].send(number, name, sums)

    def read(arrays: Arrays) -> None:
        for each in arrays.values():
            unmap_large(each.data)

    for replica in range(replicas):
        others = [other for other in range(replicas) if other != replica]
        reducers.append(Reducer(replica, replicas, lambda *told, own=replica: send(own, *told), read))
        ways.append(SharedSums(channel, replica, others, reducers[-1].put, reducers[-1].fail))
    return reducers, ways


@pytest.mark.parametrize("replicas", [2, 4])
def test_every_replica_has_the_sums_of_all(replicas: int) -> None:
    reducers, ways = joined(replicas)
    found: list[list[list[Tensor]]] = [[] for _ in range(replicas)]

    def work(replica: int) -> None:
        for number in range(60):
            found[replica].append(reducers[replica](f"round {number}", sums_of(number, replica)))

    threads = [threading.Thread(target=work, args=(replica,), daemon=True) for replica in range(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    for way in ways:
        way.close()
    for number in range(60):
        right = fold([sums_of(number, replica) for replica in range(replicas)])
        for replica in range(replicas):
            assert all(torch.equal(*pair) for pair in zip(found[replica][number], right, strict=True))


def test_a_replica_that_is_lost_does_not_stop_others_from_sending() -> None:
    """The driver notices it, and discards them all."""
    _, (first, second) = joined(2)
    second.close()
    first.send(0, "gradient", {})
    first.close()


def test_a_datagram_that_is_not_from_a_replica_is_ignored() -> None:
    (reducer, _), (first, second) = joined(2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger, open(os.devnull) as file:
        stranger.connect(first.address(0))
        for message in (b"", b"no message", msgspec.msgpack.encode({"number": 0})):
            stranger.send(message)
        socket.send_fds(stranger, [b"two files"], [file.fileno()] * 2)
    second.send(0, "gradient", {})
    assert reducer("gradient", []) == []
    for way in (first, second):
        way.close()


def test_sums_that_cannot_be_read_are_an_error_of_who_waits_for_them() -> None:
    (reducer, _), ways = joined(2)
    # Its slot does not have memory yet.
    message = msgspec.msgpack.encode({"number": 0, "replica": 1, "name": "gradient", "arrays": []})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto(message, ways[0].address(0))
    with pytest.raises(RunFailed, match="replica 0 cannot get the sums of the others: KeyError"):
        reducer("gradient", [])
    for way in ways:
        way.close()


def test_more_arrays_than_a_datagram_names_are_an_error() -> None:
    _, (first, second) = joined(2)
    few = to_arrays({str(number): torch.zeros(1) for number in range(100)})
    first.send(0, "gradient", few)
    with pytest.raises(RunFailed, match="gradient: 10000 arrays are too many for replicas"):
        first.send(1, "gradient", {str(number): few["0"] for number in range(10_000)})
    for way in (first, second):
        way.close()


def test_nothing_of_it_has_a_name_in_a_folder_and_nothing_stays_open() -> None:
    def mine() -> list[str]:
        found = []
        for each in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the listing itself
                found.append(os.readlink(each))
        return [name for name in found if "ffpipe-sums" in name]

    gc.collect()
    before = mine()
    _, ways = joined(2)
    ways[0].send(0, "gradient", {})
    assert "/memfd:ffpipe-sums (deleted)" in mine()
    assert not [name for name in os.listdir("/dev/shm") if "ffpipe-sums" in name]
    for way in ways:
        way.close()
    assert mine() == before

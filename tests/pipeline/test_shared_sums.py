"""Replicas on one host exchange sums by shared memory: the numbers arrive as they were sent, whatever their sizes."""

from __future__ import annotations

import os
import socket
import threading
from itertools import count

import msgspec
import pytest
import torch
from torch import Tensor

from ffpipe.learn.shards import fold
from ffpipe.pipeline.packet import Arrays
from ffpipe.pipeline.reducer import Reducer
from ffpipe.pipeline.shared_sums import AVAILABLE, LARGE, SharedSums

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="sums go by messages where there is no memory without a name")
PLACES = (f"test-{os.getpid()}-{number}" for number in count())
# Numbers of a round: ever more, fewer, none, of a size that is taken out of the process again.
SIZES = ((3,), (5, 7), (), (0, 4), (LARGE // 4 + 1,), (2, 3, 4))


def sums_of(number: int, replica: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 * number + replica)
    kinds = (torch.float32, torch.bfloat16, torch.float64)
    shapes = [SIZES[(number + place) % len(SIZES)] for place in range(1 + number % 3)]
    return [torch.randn(shape, generator=generator, dtype=kinds[number % 3]) for shape in shapes]


def joined(replicas: int) -> tuple[list[Reducer], list[SharedSums]]:
    """Return the reducers of so many replicas, and their ways to each other."""
    place, reducers, ways = next(PLACES), list[Reducer](), list[SharedSums]()

    def send(replica: int, number: int, name: str, sums: Arrays) -> None:
        ways[replica].send(number, name, sums)

    for replica in range(replicas):
        others = [other for other in range(replicas) if other != replica]
        reducers.append(Reducer(replica, replicas, lambda *told, own=replica: send(own, *told)))
        ways.append(SharedSums(place, replica, others, reducers[-1].put))
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


def test_one_that_is_lost_stops_nobody_from_sending() -> None:
    """The driver notices it, and discards them all."""
    _, (first, second) = joined(2)
    second.close()
    first.send(0, "gradient", {})
    first.close()


def test_what_is_no_message_of_a_replica_is_ignored() -> None:
    (reducer, _), (first, second) = joined(2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for said in (b"no message", msgspec.msgpack.encode({"number": 0})):
            stranger.sendto(said, first._address(0))
    second.send(0, "gradient", {})
    assert reducer("gradient", []) == []
    for way in (first, second):
        way.close()


def test_nothing_of_it_has_a_name_in_a_folder() -> None:
    before = set(os.listdir("/dev/shm"))
    _, ways = joined(2)
    ways[0].send(0, "gradient", {})
    assert set(os.listdir("/dev/shm")) == before
    for way in ways:
        way.close()

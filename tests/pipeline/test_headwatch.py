"""The head node is given up when it has been silent for long, and not before; no Ray here."""

from __future__ import annotations

import math
import socket
import threading

import pytest

from ffpipe.engines.ray.headwatch import EVERY, PATIENCE, HeadWatch, probe
from ffpipe.system.errors import ClusterLost

ADDRESS = "10.0.0.1:6379"


class Door:
    """A head node, and the time, which passes as one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.open = True
        self.opens_at = math.inf
        self.probes = 0

    def probe(self, address: str) -> None:
        self.probes += 1
        if not self.open and self.now < self.opens_at:
            raise ConnectionRefusedError

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def door() -> Door:
    return Door()


def watch_of(door: Door, *, own: bool = False) -> HeadWatch:
    return HeadWatch(ADDRESS, own, door.probe, door)


def test_it_probes_now_and_then(door: Door) -> None:
    watch = watch_of(door)
    for _ in range(100):
        watch.look()
        door.now += EVERY / 10
    assert door.probes == 9


def test_a_silence_that_ends_in_time_is_forgiven(door: Door) -> None:
    watch = watch_of(door)
    for _ in range(3):
        door.open = False
        for _ in range(int(PATIENCE / EVERY) - 1):
            door.now += EVERY
            watch.look()
        door.open = True
        door.now += EVERY
        watch.look()


def test_a_long_one_is_not(door: Door) -> None:
    watch = watch_of(door)
    door.open = False
    with pytest.raises(ClusterLost, match=r"10\.0\.0\.1:6379\) has not answered for 30 s: start a cluster"):
        watch.wait()
    assert PATIENCE <= door.now < PATIENCE + EVERY
    with pytest.raises(ClusterLost):
        watch.wait()


def test_of_a_cluster_of_our_own_no_address_is_asked_for(door: Door) -> None:
    door.open = False
    with pytest.raises(ClusterLost, match=r"has not answered for 30 s$"):
        watch_of(door, own=True).wait()


def test_waiting_ends_when_it_answers(door: Door) -> None:
    watch = watch_of(door)
    door.open, door.opens_at = False, PATIENCE / 2
    watch.wait()
    assert PATIENCE / 2 <= door.now < PATIENCE


def test_a_silence_is_known_without_a_second_probe(door: Door) -> None:
    watch = watch_of(door)
    assert not watch.silent()
    door.open, door.now = False, 1.0
    assert watch.silent()
    assert watch.silent()
    assert door.probes == 2
    door.open = True
    door.now += EVERY
    assert not watch.silent()


@pytest.mark.parametrize("answer", [b"any word", b""], ids=["says something", "hangs up"])
def test_probing_where_somebody_is(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answers() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=answers)
        thread.start()
        probe(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_probing_where_nobody_is_or_has_been_stopped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel takes calls, and nobody answers them
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(TimeoutError):
            probe(address, 0.1)
    with pytest.raises(OSError, match="refused"):
        probe(address)

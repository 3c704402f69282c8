"""A watch on the head node of the Ray cluster. Plain sockets: Ray itself must not be asked here.

Ray's own calls to a head node that is gone do not return, and after a minute Ray ends the whole program, whatever it
is doing, with a message of its own. A run wants to end before that, with one that says how to go on.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ffpipe.system.errors import ClusterLost

PATIENCE = 30.0  # seconds; long enough for a cable to be plugged in again, and half of Ray's own
EVERY = 5.0
PROBE_SECONDS = 2.0
PAUSE_SECONDS = 0.5
# The first bytes of a client of HTTP/2, and so of gRPC, with an empty frame of settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def probe(address: str, timeout: float = PROBE_SECONDS) -> None:
    """Raise OSError where nobody answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    place = (host.strip("[]"), int(port))
    with socket.create_connection(place, timeout=timeout) as connection, suppress(ConnectionError):
        # A process that has been stopped listens all the same: the kernel takes its calls. So a word is waited for, be
        # it a refusal.
        connection.sendall(HELLO)
        connection.recv(1)


class Clock(Protocol):
    """The part of `time` that a watch needs."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class HeadWatch:
    """A watch that probes the head node now and then, and gives it up when it has been silent for too long."""

    def __init__(
        self, address: str, own: bool = False, ask: Callable[[str], None] = probe, clock: Clock = time
    ) -> None:
        """own: the cluster is one that the run has started, and that the next run starts anew. ask: raises OSError
        where nobody answers."""
        self._address, self._own, self._ask, self._clock = address, own, ask, clock
        self._looked = self._answered = clock.monotonic()

    def look(self) -> None:
        """Probe if it is time to; returns at once if not. Raises ClusterLost."""
        if self._clock.monotonic() - self._looked >= EVERY:
            self.answers()

    def wait(self) -> None:
        """Return when it answers, before Ray is asked for what the head node knows. Raises ClusterLost."""
        while not self.answers():
            self._clock.sleep(PAUSE_SECONDS)

    def silent(self) -> bool:
        """Return whether nobody answers, as a probe has found now or a moment ago."""
        if self._looked == self._answered or self._clock.monotonic() - self._looked >= EVERY:
            with suppress(ClusterLost):
                self.answers()
        return self._looked != self._answered

    def answers(self) -> bool:
        """Probe now. Raises ClusterLost where nobody has answered for long."""
        try:
            self._ask(self._address)
        except OSError:
            self._looked = self._clock.monotonic()
            silent = self._looked - self._answered
            if silent >= PATIENCE:
                advice = "" if self._own else ": start a cluster anew, let RAY_ADDRESS be its address"
                raise ClusterLost(
                    f"the head node of the Ray cluster ({self._address}) has not answered for {silent:.0f} s{advice}"
                ) from None
            return False
        self._looked = self._answered = self._clock.monotonic()
        return True

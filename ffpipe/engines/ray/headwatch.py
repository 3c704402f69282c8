"""Whether the head node of the Ray cluster still answers. Plain sockets: Ray itself must not be asked here.

Ray's own calls to a head node that is gone do not return, and after a minute Ray ends the whole program, whatever it
is doing, with a message of its own. A run wants to end before that, with one that says how to go on.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from ffpipe.system.errors import ClusterLost

PATIENCE = 30.0  # seconds; long enough for a cable to be plugged in again, and half of Ray's own
EVERY = 5.0
KNOCK_SECONDS = 2.0
PAUSE_SECONDS = 0.5


def knock(address: str, timeout: float = KNOCK_SECONDS) -> None:
    """Raise OSError where nobody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()


class HeadWatch:
    """Knocks at the head node's door now and then; gives it up when it has been silent for so long."""

    def __init__(
        self,
        address: str,
        knock: Callable[[str], None] = knock,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = address
        self._knock, self._clock, self._sleep = knock, clock, sleep
        self._looked = self._answered = clock()

    def answers(self) -> bool:
        """Whether it does, at this moment."""
        try:
            return self._answers()
        except ClusterLost:
            return False

    def look(self) -> None:
        """Knock if it is time to; returns at once if not. Raises ClusterLost."""
        if self._clock() - self._looked >= EVERY:
            self._answers()

    def wait(self) -> None:
        """Return as soon as it answers; to be called before Ray is asked for what the head node knows.

        Raises ClusterLost.
        """
        while not self._answers():
            self._sleep(PAUSE_SECONDS)

    def _answers(self) -> bool:
        try:
            self._knock(self._address)
        except OSError:
            self._looked = self._clock()
            silent = self._looked - self._answered
            if silent >= PATIENCE:
                raise ClusterLost(
                    f"the head node of the Ray cluster ({self._address}) has not answered for {silent:.0f} s: "
                    "start a cluster anew, let RAY_ADDRESS be its address"
                ) from None
            return False
        self._looked = self._answered = self._clock()
        return True

"""A watch on the head node of the Ray cluster. Plain sockets: Ray itself must not be asked here.

Ray's own calls to a head node that is gone do not return, and after a minute Ray ends the whole program, whatever it
is doing, with a message of its own. A run wants to end before that, with one that says how to go on.
"""

from __future__ import annotations

import socket
import time

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

    def __init__(self, address: str) -> None:
        self._address = address
        self._looked = self._answered = time.monotonic()

    def look(self) -> None:
        """Knock if it is time to; returns at once if not. Raises ClusterLost."""
        if time.monotonic() - self._looked >= EVERY:
            self.answers()

    def wait(self) -> None:
        """Return as soon as it answers; to be called before Ray is asked for what the head node knows.

        Raises ClusterLost.
        """
        while not self.answers():
            time.sleep(PAUSE_SECONDS)

    def answers(self) -> bool:
        """Knock now. Raises ClusterLost where nobody has answered for long."""
        try:
            knock(self._address)
        except OSError:
            self._looked = time.monotonic()
            silent = self._looked - self._answered
            if silent >= PATIENCE:
                raise ClusterLost(
                    f"the head node of the Ray cluster ({self._address}) has not answered for {silent:.0f} s: "
                    "start a cluster anew, let RAY_ADDRESS be its address"
                ) from None
            return False
        self._looked = self._answered = time.monotonic()
        return True

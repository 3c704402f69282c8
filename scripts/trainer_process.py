"""A trainer as a process whose end is waited for: signals that come meanwhile go on to it, so that it can save.

It knows nothing of rows and figures. `subprocess.run` would kill the trainer a quarter of a second after Ctrl-C, and
leave it running at SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO

# `timeout` signals a process and then its group, which is the same wish. A later one means: do not wait.
SAME_WISH_SECONDS = 1.0


@dataclass(frozen=True)
class Ended:
    """status: as a shell has it, 128 + n after signal n. interrupted: whether a signal came meanwhile."""

    status: int
    interrupted: bool


def run_to_its_end(command: Sequence[str], output: IO[str]) -> Ended:
    """Start the command, which writes to `output`, and wait for it. For the main thread."""
    relay = _Relay()
    with relay.installed():
        # A session of its own: from a terminal, Ctrl-C comes to the whole process group, and with what is sent on from
        # here it would come twice.
        relay.start(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True))
        status = relay.child.wait()
    return Ended(128 - status if status < 0 else status, relay.asked_at is not None)


class _Relay:
    """A relay of signals to the child; one that came before there was a child is handed on at its start."""

    child: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self._waiting: int | None = None
        self._started = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers, and afterwards those from before."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it stays ignored
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self._started = True
        if self._waiting is not None:
            child.send_signal(self._waiting)

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked_at is not None and now - self.asked_at < SAME_WISH_SECONDS:
            return
        self.asked_at = now
        # The trainer saves at SIGINT and SIGTERM; a terminal that is closed asks for no less.
        wish = signal.SIGTERM if number == signal.SIGHUP else number
        if self._started:
            self.child.send_signal(wish)
        else:
            self._waiting = wish

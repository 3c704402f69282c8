"""The user's wish that a run end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PIECE_SECONDS = 0.2


class Interrupt:
    """A wish that the run end: the first lets it save, the second does not wait. Safe in a signal handler."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self.wished = False
        self._sleep = sleep
        self._tell: Callable[[], None] | None = None
        self._over = False

    def request(self) -> None:
        """Ask the run to end. Raises KeyboardInterrupt where there is nothing to save, or the second time."""
        if self._over:
            return
        if self.wished or self._tell is None:
            raise KeyboardInterrupt
        self.wished = True
        self._tell()

    def goes_to(self, tell: Callable[[], None]) -> None:
        """Set what the first wish calls. Until it is set, there is nothing to save."""
        self._tell = tell

    def pause(self, seconds: float) -> None:
        """Wait before a run that broke off goes on; no longer than until the wish comes."""
        # In pieces, since a handler of a signal can set no event that is waited for right then.
        while seconds > 0 and not self.wished:
            self._sleep(min(seconds, PIECE_SECONDS))
            seconds -= PIECE_SECONDS

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Hear wishes within this block only: what comes after it takes the run down, which is to be done whole."""
        try:
            yield
        finally:
            self._over = True

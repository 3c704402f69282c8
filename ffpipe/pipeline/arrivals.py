"""Arrivals: what other threads bring to one that waits for it, or the error that keeps it from coming."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Arrivals:
    """Subclasses hold `_changed` while they change what `_wait` looks at, and notify it. `fail` may be called from any
    thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Take what keeps anything further from coming: the thread that waits raises it, now or when it waits next."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _wait(self, arrived: Callable[[], bool]) -> None:
        """Wait, with `_changed` held, until `arrived` returns True. Raises what `fail` was given."""
        self._changed.wait_for(lambda: self._error or arrived())
        if self._error is not None:
            raise self._error

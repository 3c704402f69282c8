"""Work that may never answer, done in a thread that nobody has to wait for: signals are obeyed meanwhile."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return or raise what `work` does. Raises TimeoutError after `seconds`; the work is left to itself then."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # Not a pool: the interpreter would wait for its threads at the end.
    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"there was no answer for {seconds:.0f} s") from None

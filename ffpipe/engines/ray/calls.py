"""The one way in which a driver calls Ray: through a thread, up to a deadline, and in no signal's way.

Many of Ray's calls wait for the head node as long as that takes, in C++, where none of Python's signal handlers runs.
Whoever calls here waits in Python. All calls are made by one thread, in their order: Linux ends the processes of a
cluster with the thread that started them, and none is called while another is still at work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

from ffpipe.system.errors import ClusterLost

T = TypeVar("T")
MEANWHILE_SECONDS = 0.02
Call = tuple["Future[Any]", Callable[[], Any]]


class Caller:
    """The thread, which begins with the first call and ends with the program."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call] | None = None
        self.stuck = False

    def _put(self, call: Call) -> None:
        """Have a call made after those before it."""
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(target=_make, args=(self._calls,), name="calls of Ray", daemon=True).start()
        self._calls.put(call)

    def leave_behind(self) -> None:
        """Let the next call be made by another thread: this one is stuck, and may be for longer than the program."""
        self._calls = None
        self.stuck = True

    def within(
        self, seconds: float, what: str, function: Callable[[], T], meanwhile: Callable[[], object] | None = None
    ) -> T:
        """Return what `function` returns, or raise what it raises. what: it is done for, in a message. meanwhile:
        called again and again while that is waited for.

        Raises ClusterLost where there is no answer in time. Ray is then still at it, and what is called next waits too.
        """
        answer: Future[T] = Future()
        self._put((answer, function))
        deadline = time.monotonic() + seconds
        try:
            while meanwhile is not None and not wait([answer], MEANWHILE_SECONDS).done and time.monotonic() < deadline:
                meanwhile()
            return answer.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            if answer.done():  # with a deadline of its own
                return answer.result()
            raise ClusterLost(f"Ray has not answered for {seconds:g} s, asked {what}") from None
        except (KeyboardInterrupt, SystemExit):
            # A second Ctrl-C, say: the call goes on, and the end of the interpreter would come upon Ray in the midst.
            self.stuck = self.stuck or not answer.done()
            raise
        finally:
            answer.cancel()  # if it has not begun


def _make(calls: SimpleQueue[Call]) -> None:
    """Make calls for ever."""
    while True:
        answer, function = calls.get()
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)
        del answer, function  # they may hold objects of Ray


# Ray's, in this process.
caller = Caller()
within = caller.within

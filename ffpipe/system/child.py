"""Questions that a child process answers, so that what it loads for that ends with it."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

T = TypeVar("T")
# A child that has not answered for so long may be stuck: a thread that held a lock is not there after a fork.
SECONDS = 60.0


def in_child(find: Callable[[], T], seconds: float = SECONDS) -> T | None:
    """Return what `find` returns in a fork of this process; of all that it does only that is left.

    find: any function; its result is pickled. Returns None where this process may have no child, and where the child
    fails or does not answer in time: whoever asks finds it out here then, where errors are raised.
    """
    # A fork of a process with Apple's frameworks may crash.
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return None
    context = multiprocessing.get_context("fork")
    answer, given = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(find, given, seconds), daemon=True)
    child.start()
    given.close()
    try:
        found: T | None = answer.recv() if answer.poll(seconds) else None
    except EOFError:  # it has ended without a word
        found = None
    finally:
        child.kill()
        child.join()
        answer.close()
    return found


def _answer(find: Callable[[], Any], given: Connection, seconds: float) -> None:
    """Send what is found; send nothing where that fails."""
    # Ctrl-C goes to all processes of a terminal: the parent, which has handlers, ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)  # should the parent be killed meanwhile
    torch.set_num_threads(1)  # those of OpenMP are not there after a fork
    try:
        given.send(find())
    except BaseException:  # of a user's code too
        given.close()

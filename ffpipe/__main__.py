"""The installed command; `python -m ffpipe` does what `ffpipe` does.

Almost nothing is imported here before Ctrl-C and SIGTERM are seen to: the rest takes seconds.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

STATUS_OF_INTERRUPTED = 130
ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BY_DEFAULT = (signal.default_int_handler, signal.SIG_DFL)


def run() -> None:
    """Run the command that was typed, and exit with its status."""
    # A shell may have one of them ignored, and a handler of somebody else's stays.
    ours = [number for number in ASKED_TO_END if signal.getsignal(number) in BY_DEFAULT]
    _on(ours, _end)
    from ffpipe.commands.cli import main
    from ffpipe.engines.ray.calls import caller

    # All of them as Ctrl-C from here on: an exception removes what is half written, and a death would leave it.
    status = main(ready=lambda: _on(ours, signal.default_int_handler))
    _on(ours, _end)
    if caller.stuck:  # the end of the interpreter would wait for Ray
        os._exit(status)
    sys.exit(status)


def _on(numbers: Iterable[int], handler: Callable[..., Any]) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _end(*_: Any) -> None:
    """End at once: there is nothing yet, or no longer, that would have to be taken down.

    An exception would not do, since modules that are half imported may take it for one of theirs.
    """
    with suppress(OSError):
        # Not by print: the signal may have come in the midst of another, which cannot be entered again.
        os.write(2, b"ffpipe: interrupted\n")
    os._exit(STATUS_OF_INTERRUPTED)


if __name__ == "__main__":
    # Python has put the working folder first in its path, and what lies there is data. A checkout stays, since ffpipe
    # itself lies there.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    run()

"""The installed command; `python -m ffpipe` does what `ffpipe` does.

Almost nothing is imported here before Ctrl-C is seen to: the rest takes seconds.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import Any

STATUS_OF_INTERRUPTED = 130


def run() -> None:
    """Run the command that was typed, and exit with its status."""
    mind_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else a shell has it ignored
    if mind_ctrl_c:
        signal.signal(signal.SIGINT, _end)
    from ffpipe.commands.cli import main
    from ffpipe.engines.ray.calls import caller

    status = main(ready=lambda: mind_ctrl_c and signal.signal(signal.SIGINT, signal.default_int_handler))
    if mind_ctrl_c:
        signal.signal(signal.SIGINT, _end)
    if caller.stuck:  # the end of the interpreter would wait for Ray
        os._exit(status)
    sys.exit(status)


def _end(*_: Any) -> None:
    """End at once: there is nothing yet, or no longer, that would have to be taken down.

    An exception would not do, since modules that are half imported may take it for one of theirs.
    """
    with suppress(OSError):
        os.write(2, b"ffpipe: interrupted\n")
    os._exit(STATUS_OF_INTERRUPTED)


if __name__ == "__main__":
    # Python has put the working folder first in its path, and what lies there is data.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    run()

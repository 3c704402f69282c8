"""A Python that is warm: programs and Ray's workers are forked off a process that has imported torch and ffpipe.

    python = warm.python()                       # in place of sys.executable
    subprocess.run([python, "-m", "ffpipe", ...])

Arguments, environment, working folder, standard streams, signals and exit status of what is started so are its own. It
spares three seconds of a processor for each command, and four for each of Ray's workers. Tests of what a fresh
interpreter does (its imports, its memory, its limits) take sys.executable.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The client has to start fast: no site-packages, and three modules of the standard library.
PROGRAM = """#!/bin/sh
exec '{python}' -ISE '{client}' '{socket}' '{python}' "$@"
"""


@cache
def python() -> str:
    """Return the path of a program that takes what Python takes: -c, -m or a script.

    Its server is started by the first call and ends with this process.
    """
    if sys.platform != "linux":  # forking is not safe where system libraries have threads
        return sys.executable
    folder = tempfile.TemporaryDirectory(prefix="ffw-", ignore_cleanup_errors=True)
    socket, program = Path(folder.name) / "socket", Path(folder.name) / "python"
    program.write_text(PROGRAM.format(python=sys.executable, client=HERE / "warm_client.py", socket=socket))
    program.chmod(0o755)
    # The server ends when the pipe to it does. It says "ready" once it listens.
    server = subprocess.Popen(
        [sys.executable, HERE / "warm_server.py", socket, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the warm server did not start"
    owner = os.getpid()

    @atexit.register
    def end() -> None:
        if os.getpid() == owner:
            server.communicate()
            folder.cleanup()

    return str(program)


@contextmanager
def workers() -> Iterator[None]:
    """Have a Ray cluster that is started meanwhile fork its workers. Ray starts them with sys.executable."""
    before, sys.executable = sys.executable, python()
    try:
        yield
    finally:
        sys.executable = before

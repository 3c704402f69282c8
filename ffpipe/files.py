"""Reading a file that may be from a stranger: a regular one, up to a bound, and never one that makes us wait.

What is in it is the caller's to check.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ffpipe.errors import UserError


def read_whole(path: Path, most: int) -> bytes:
    """The bytes of a file of at most `most`. Raises UserError; FileNotFoundError where there is none."""
    try:
        # A named pipe that nobody writes to would hold a plain open for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"cannot read {path}: it is no regular file")
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise UserError(f"cannot read {path}: {reason}") from None
    if len(data) > most:
        raise UserError(f"cannot read {path}: it has more than {most:,} bytes")
    return data

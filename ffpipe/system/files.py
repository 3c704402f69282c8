"""Files that may be from a stranger: read up to a bound and never waited for, written whole and through no link.

What is in them is the caller's to check.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ffpipe.system.errors import Unreachable, UserError


def read_whole(path: Path, most: int) -> bytes:
    """The bytes of a file of at most `most`.

    Raises UserError; Unreachable where that says nothing of the file; FileNotFoundError where there is none.
    """
    try:
        # A named pipe that nobody writes to would hold a plain open for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"cannot read {path}: it is no regular file")
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise UserError(f"cannot read {path}: it is no regular file") from None
    except OSError as error:
        raise Unreachable(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:  # a name that no file can have
        raise UserError(f"cannot read {path}: {error}") from None
    if len(data) > most:
        raise UserError(f"cannot read {path}: it has more than {most:,} bytes")
    return data


def replace_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all, through one beside it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name, so that what a killed process left goes
    temporary.unlink(missing_ok=True)
    try:
        # Exclusively: in a stranger's folder a link may be waiting for us to write through it.
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def expanded(path: str | Path) -> Path:
    """With ~ as the home folder that it stands for. Raises UserError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} begins with a home folder that is not known: give the whole path") from None

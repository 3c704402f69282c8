"""Folders that a process left when it was killed, removed once that process is gone.

They are named PREFIX-PID-..., and say inside whose process that is: a disk may be shared by hosts and containers, in
which the same number is another process, or none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

OWNER = ".owner"


def own_folder(inside: Path, prefix: str) -> Path:
    """A new folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=inside))
    (folder / OWNER).write_text(_here(), encoding="utf-8")
    return folder


def sweep(folder: Path, prefix: str) -> None:
    """Remove what dead processes of this host left in `folder`."""
    for left in folder.glob(f"{prefix}-*-*"):
        owner = left.name.removeprefix(f"{prefix}-").split("-")[0]
        if owner.isdigit() and _from_here(left) and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _here() -> str:
    """This host, and in it the namespace that numbers its processes."""
    namespace = ""
    with contextlib.suppress(OSError):  # a system without /proc
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {namespace}"


def _from_here(left: Path) -> bool:
    try:
        with (left / OWNER).open(encoding="utf-8") as file:
            return file.read(1000) == _here()
    except (OSError, UnicodeDecodeError):
        return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

"""Folders that a process left when it was killed, removed once that process is gone.

They are named PREFIX-PID-..., and say inside whose process that is: a disk may be shared by hosts and containers, in
which the same number is another process, or none. On one host a number comes again, so they say when it began, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from ffpipe.system.errors import UserError
from ffpipe.system.files import read_whole
from ffpipe.system.processes import start_ticks

OWNER = ".owner"
# A folder is nobody's for as long as it takes to write that file; clocks of hosts that share a disk may differ.
UNOWNED_SECONDS = 3600


def own_folder(inside: Path, prefix: str) -> Path:
    """A new folder of this process. Raises OSError, and leaves none then."""
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=inside))
    try:
        (folder / OWNER).write_text(f"{_here()}\n{start_ticks(os.getpid())}", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def sweep(folder: Path, prefix: str) -> None:
    """Remove what dead processes of this host left in `folder`."""
    for left in folder.glob(f"{prefix}-*-*"):
        process = left.name.removeprefix(f"{prefix}-").split("-")[0]
        if not process.isdecimal():
            continue
        try:
            here, _, began = read_whole(left / OWNER, 1000).decode().partition("\n")
        except FileNotFoundError:
            _remove_unowned(left)
        except (UserError, UnicodeDecodeError):
            continue
        else:
            if here == _here() and not _alive(int(process), began):
                shutil.rmtree(left, ignore_errors=True)


def sweep_all(folder: Path, prefix: str) -> None:
    """Remove all such folders, whoever made them: for a place that only the caller may use at the moment."""
    for left in folder.glob(f"{prefix}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _remove_unowned(left: Path) -> None:
    """Its maker was killed before it could say so, if it is old. Only an empty one goes."""
    with contextlib.suppress(OSError):
        if time.time() - left.stat().st_mtime > UNOWNED_SECONDS:
            left.rmdir()


def _here() -> str:
    """This host, and in it the namespace that numbers its processes."""
    namespace = ""
    with contextlib.suppress(OSError):  # a system without /proc
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {namespace}"


def _alive(process: int, began: str) -> bool:
    """Whether the process of this number is there, and is the one that began then."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    now = start_ticks(process)
    known = now and began not in ("", "0")
    return not known or began == str(now)

"""Folders that a process left when it was killed, removed once that process is gone.

A process has a file in its folder locked for as long as it lives, and the file names its host: on a disk that hosts
share, one may not see the locks of another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import IO

from ffpipe.system.processes import end_writers

OWNER = ".owner"
# Seconds for processes that were killed to be gone.
SECONDS_TO_END, PAUSE_SECONDS = 5.0, 0.05
_locked: dict[Path, IO[str]] = {}


def own_folder(inside: Path, prefix: str) -> Path:
    """Make a folder PREFIX-... of this process. Raises OSError, and leaves none then."""
    # A process that makes many runs would else have a file open for each.
    for gone in [folder for folder in _locked if not folder.exists()]:
        _locked.pop(gone).close()
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=inside))
    try:
        unlocked = folder / "new"
        unlocked.write_text(socket.gethostname(), encoding="utf-8")
        _locked[folder] = unlocked.open("r+")
        with contextlib.suppress(OSError):  # some disks have no locks, and nothing can be swept there
            fcntl.flock(_locked[folder], fcntl.LOCK_EX)
        unlocked.rename(folder / OWNER)  # only now, since `sweep` takes one that is not locked for a dead process's
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove_own(folder: Path) -> None:
    """Remove a folder of this process."""
    # Closed first: NFS keeps a file that is open, under another name, and so its folder.
    if (owner := _locked.pop(folder, None)) is not None:
        owner.close()
    shutil.rmtree(folder, ignore_errors=True)


def remove_with_writers(folder: Path) -> None:
    """Remove a folder, and end whoever writes there; again for a while, since who is ending may still make a file."""
    deadline = time.monotonic() + SECONDS_TO_END
    while True:
        end_writers(folder.resolve())
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > deadline:
            return
        time.sleep(PAUSE_SECONDS)


def sweep(folder: Path, prefix: str) -> None:
    """Remove what dead processes of this host left in `folder`, and end what they had started and is at work there."""
    for left in folder.glob(f"{prefix}-*-*"):
        # Absent, which is another's folder; of another user; or locked.
        swept = False
        with contextlib.suppress(OSError), (left / OWNER).open("r+", errors="replace") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A pipe, which somebody else has put there, would be read for ever.
            status = os.fstat(owner.fileno())
            if stat.S_ISREG(status.st_mode) and owner.read(1 << 10) == socket.gethostname():
                swept = True
                # Another user's may be a link to where others are at work, whom root would end.
                if status.st_uid == os.getuid():
                    remove_with_writers(left)
                else:
                    shutil.rmtree(left, ignore_errors=True)
        if swept:  # again, for NFS: no file in it is open any more
            shutil.rmtree(left, ignore_errors=True)


def sweep_all(folder: Path, prefix: str) -> None:
    """Remove all such folders, whoever made them: for a place that only the caller may use at the moment."""
    for left in folder.glob(f"{prefix}-*"):
        shutil.rmtree(left, ignore_errors=True)

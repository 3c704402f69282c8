"""Processes of this host: one told from a later one of the same number, and those that work in a folder."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import stat
from pathlib import Path


def stat_fields(process: int) -> list[str]:
    """Return what Linux says of a process after its name in brackets, which may hold anything; empty where it has
    ended, and on other systems."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def start_ticks(process: int) -> int:
    """Return the time at which a process of this host began, in the kernel's ticks; 0 where that cannot be known."""
    try:
        return int(stat_fields(process)[19])
    except (IndexError, ValueError):
        return 0


def end_writers(folder: Path) -> None:
    """Kill all other processes that have a file in this folder, which is to go, open for writing; those that only read
    there are left alone. Does nothing where the system does not say who that is."""
    found = set()
    # Path.glob raises when a process ends while its files are listed.
    for handle in map(Path, glob.iglob("/proc/[0-9]*/fd/*")):
        with contextlib.suppress(OSError):  # it has ended or closed it meanwhile, or is not ours
            # The mode of the link itself says how the file was opened.
            if handle.lstat().st_mode & stat.S_IWUSR and handle.readlink().is_relative_to(folder):
                found.add(int(handle.parts[2]))
    for process in found - {os.getpid()}:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)

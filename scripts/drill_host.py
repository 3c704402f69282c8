"""The drill's use of this host (Linux): a small disk, and what its runs have left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffpipe.system.leftovers import sweep

CLONE_NEWNS = 0x20000
DISK_SIZE = "24m"  # all snapshots of a run find room, should the driver be late to remove old ones
SHARED_MEMORY = Path("/dev/shm")
SECONDS_TO_END = 60.0


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Mount a disk of a few megabytes, and a place of our own for shared memory. Gives "" where that may not be.

    Both are there for this process and its children alone, and so end with the last of them, whatever happens.
    """
    folder.mkdir()
    why = _mount(folder)
    if why:
        print(
            f"nothing can be mounted here ({why}): full disks are played by a bound on the size of files, and shared "
            "memory is not looked at",
            file=sys.stderr,
        )
        yield ""
        return
    try:
        yield str(folder)
    finally:
        for mounted in (folder, SHARED_MEMORY):
            subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def _mount(folder: Path) -> str:
    """Mount the disk. Returns why it failed, or ""."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        return os.strerror(ctypes.get_errno())
    tmpfs = ["-t", "tmpfs", "drill"]
    for arguments in (
        ["--make-rprivate", "/"],
        [*tmpfs, "-o", f"size={DISK_SIZE}", str(folder)],
        [*tmpfs, str(SHARED_MEMORY)],
    ):
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()
    return ""


def stages_left(temporary: Path) -> list[str]:
    """Return the stages that are still there when they have had time to end."""
    return _left(temporary, b"ray::StageActor")


def _left(temporary: Path, title: bytes = b"") -> list[str]:
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := _processes(temporary, title)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _processes(temporary: Path, title: bytes) -> list[str]:
    """Return the processes with this folder for temporary files that call themselves so; whoever their parents are by
    now."""
    found, mark = [], f"TMPDIR={temporary}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            command = (path / "cmdline").read_bytes()
            if command.startswith(title) and mark in (path / "environ").read_bytes().split(bytes(1)):
                found.append(f"process {path.name} ({command.replace(bytes(1), b' ').decode().strip()[:80]})")
    return found


def temporary_files(run: Path) -> list[str]:
    """Return the files in a run that were not finished, and snapshots that are none."""
    snapshots = [path for path in run.rglob("step-*") if not (path / "manifest.json").exists()]
    return [str(path) for path in (*run.rglob("*.tmp"), *snapshots)]


def leftovers(temporary: Path, shared_memory: bool) -> list[str]:
    """Return the processes, temporary files and shared memory that are still there when they have had time to end.

    temporary: where processes of this drill put such files. shared_memory: whether nobody else's can be there.
    """
    processes = _left(temporary)
    sweep(temporary, "ffpipe")  # as the next cluster to start would, after a driver that was killed
    files = [str(path) for path in temporary.iterdir()]
    segments = [str(path) for path in SHARED_MEMORY.iterdir()] if shared_memory else []
    return [*processes, *files, *segments]

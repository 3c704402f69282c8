"""What the drill asks of this host (Linux): a small disk, and what its runs have left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ffpipe.pipeline.leftovers import sweep

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
DISK_SIZE = "24m"  # all snapshots of a run find room, should the driver be late to remove old ones
SHARED_MEMORY = Path("/dev/shm")


def adopt_orphans() -> None:
    """Let every process that this one's descendants leave behind become its own child, whatever it is called."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("the drill needs Linux")


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
    """Returns why it failed, or ""."""
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


def descendants(among: Callable[[bytes], bool]) -> dict[int, bytes]:
    """Processes that this one has started, or they in turn, with such a command line; buries those that have ended."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and int(parent) == os.getpid():
                    os.waitpid(int(path.name), 0)
                elif state != "Z":
                    parents[int(path.name)] = int(parent)
    found = {}
    for process in parents:
        ancestor = parents[process]
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{process}/cmdline").read_bytes()
                if among(command):
                    found[process] = command
    return found


def stages_left(seconds: float = 60.0) -> list[str]:
    """Stages of this process's descendants that are there after `seconds`, if they need so long to end."""
    return _left(lambda command: command.startswith(b"ray::StageActor"), seconds)


def _left(among: Callable[[bytes], bool], seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while (left := descendants(among)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [
        f"process {process} ({command.replace(bytes(1), b' ').decode().strip()[:80]})"
        for process, command in left.items()
    ]


def temporary_files(run: Path) -> list[str]:
    """Files in a run that were not finished, and snapshots that are none."""
    snapshots = [path for path in run.rglob("step-*") if not (path / "manifest.json").exists()]
    return [str(path) for path in (*run.rglob("*.tmp"), *snapshots)]


def leftovers(temporary: Path, shared_memory: bool, seconds: float = 60.0) -> list[str]:
    """Processes, temporary files and shared memory that are there after `seconds`, if they need so long to end.

    temporary: where processes of this drill put such files. shared_memory: whether nobody else's can be there.
    """
    processes = _left(lambda command: True, seconds)
    sweep(temporary, "ffpipe")  # as the next cluster to start would, after a driver that was killed
    files = [str(path) for path in temporary.iterdir()]
    segments = [str(path) for path in SHARED_MEMORY.iterdir()] if shared_memory else []
    return [*processes, *files, *segments]

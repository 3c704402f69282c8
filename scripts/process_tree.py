"""Memory of processes and of all that they start, and the CPU time of one, as Linux counts them.

Memory is the proportional share (PSS): of a page that several processes have, each has its part, so that the sum over a
tree counts it once. It knows nothing of what the processes do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ffpipe.system.processes import stat_fields

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def tree_of(roots: Iterable[int]) -> set[int]:
    """Return these processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir(PROC)):
        if fields := stat_fields(int(name)):
            children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = set[int](), list(roots)
    while waiting:
        process = waiting.pop()
        found.add(process)
        waiting += children.get(process, [])
    return found


def memory_share(process: int) -> int:
    """Return the bytes of a process, of each page its share; 0 where it has ended."""
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process, all its threads together; 0 where it has ended."""
    fields = stat_fields(process)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def title_of(process: int) -> str:
    """Return the command line of a process, or the title that it has given itself; "" where it has ended."""
    try:
        return (PROC / str(process) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


class MemoryWatch:
    """A watch on trees of processes, from another thread. largest: the most that one process had; titled: that one of
    those with the title had; whole: the most that all had at the same time."""

    def __init__(self, roots: Iterable[int], title: str = "", seconds: float = 0.25) -> None:
        """title: begins the titles of some processes; "": of all. seconds: between two looks, which take time from what
        they look at."""
        self.largest = self.titled = self.whole = 0
        self._title, self._seconds, self._ended = title, seconds, threading.Event()
        self._roots = tuple(roots)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def look(self) -> None:
        """Take a look, and keep the most."""
        shares = {process: memory_share(process) for process in tree_of(self._roots)}
        titled = (share for process, share in shares.items() if title_of(process).startswith(self._title))
        self.titled = max(self.titled, *titled, 0)
        self.largest, self.whole = max(self.largest, *shares.values()), max(self.whole, sum(shares.values()))

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(self._seconds):
            self.look()

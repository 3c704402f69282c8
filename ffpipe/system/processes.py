"""A process of this host, told from a later one of the same number."""

from __future__ import annotations

from pathlib import Path


def start_ticks(process: int) -> int:
    """When a process of this host began, in the kernel's ticks; 0 where that cannot be known."""
    try:
        # After the name in brackets, which may hold anything, it is the twentieth field.
        return int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0

"""The processes on this host (Linux) that are stages of this process's own cluster: scripts touch no others."""

from __future__ import annotations

import os
from pathlib import Path


def own_stages() -> list[int]:
    """Process ids in order of their start. Stages are grandchildren, whose parents are Ray's own processes."""
    parents, stages = {}, []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if (path / "cmdline").read_bytes().startswith(b"ray::StageActor"):
                    stages.append(int(path.name))
            except OSError:  # it has ended meanwhile
                continue
    return sorted(process for process in stages if parents.get(parents[process]) == os.getpid())

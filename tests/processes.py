"""The processes on this host that are stages of this process's own cluster: tests touch no others."""

from __future__ import annotations

import os
from pathlib import Path

from ffpipe.system.processes import stat_fields


def stage_processes() -> list[int]:
    """Return the stages that run, in order of their start. Ray's processes are children of the driver, workers
    theirs."""
    return sorted(process for process in _running() if _is_stage(process) and _descends_from(process, os.getpid()))


def _running() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_stage(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::StageActor")
    except OSError:  # it has ended meanwhile
        return False


def _descends_from(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        state_and_parent = stat_fields(process)[:2]
        process = int(state_and_parent[1]) if state_and_parent else 0
    return False

"""Folders that a process left when it was killed: named PREFIX-PID-..., and removed once that process is gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sweep(folder: Path, prefix: str) -> None:
    """Remove what dead processes left in `folder` under names that begin with PREFIX-PID-."""
    for left in folder.glob(f"{prefix}-*-*"):
        owner = left.name.removeprefix(f"{prefix}-").split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

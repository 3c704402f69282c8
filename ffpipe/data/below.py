"""Files below a folder of data, without those of runs: people keep their runs beside their data."""

from __future__ import annotations

import os
from pathlib import Path

# A folder with the first and any of the others is a run.
_CONFIG = "config.toml"
_OTHERS = ("checkpoints", "summary.json", "past.json")


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    return (folder / _CONFIG).is_file() and any((folder / name).exists() for name in _OTHERS)


def files_below(root: Path) -> list[Path]:
    """List all files below a folder in sorted order but those of runs; links to folders are not followed."""
    found: list[Path] = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_run(Path(place, name))]
        found += (path for name in names if (path := Path(place, name)).is_file())
    return sorted(found)


def is_of_runs(folder: Path) -> bool:
    """Return whether a folder is a run, or has runs below it and nothing else."""
    has_runs = any(is_run(Path(place)) for place, _, _ in os.walk(folder))
    return has_runs and (is_run(folder) or not files_below(folder))

"""Files below a folder of data, without hidden ones and those of runs: people keep their runs beside their data."""

from __future__ import annotations

import os
from pathlib import Path

from ffpipe.system.errors import UserError, reason

# A folder with the first and any of the others is a run: the first alone may be of anything else.
_CONFIG = "config.toml"
_OTHERS = ("checkpoints", "summary.json", "past.json")


def is_hidden(path: Path) -> bool:
    """Return whether a file or folder is out of sight, as version control and editors keep theirs."""
    return path.name.startswith(".")


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    # These are false, and raise nothing, where the folder may not be looked into.
    return os.path.isfile(folder / _CONFIG) and any(os.path.exists(folder / name) for name in _OTHERS)


def files_below(root: Path) -> list[Path]:
    """List all files below a folder in sorted order but hidden ones and those of runs; links to folders are not
    followed. Raises UserError for a folder that cannot be read."""
    found: list[Path] = []
    for place, folders, names in os.walk(root, onerror=_refuse):
        inside = [Path(place, name) for name in folders]
        # In place, by which os.walk goes no deeper into what is left out.
        folders[:] = [each.name for each in inside if not is_hidden(each) and not is_run(each)]
        found += (path for name in names if not is_hidden(path := Path(place, name)))
    # A file system lists names in any order, and the order of the files is that of the examples.
    return sorted(found)


def is_of_runs(folder: Path) -> bool:
    """Return whether a folder is a run, or has runs below it and nothing else."""
    has_runs = any(is_run(Path(place)) for place, _, _ in os.walk(folder))
    return has_runs and (is_run(folder) or not files_below(folder))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: {reason(error)}") from None

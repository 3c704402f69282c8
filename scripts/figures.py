"""The figures of all runs: one file, results.json, by row and seed. Read with a check, written whole or not at all.

The kept folders beside it (ROW/SEED: config, summary, end of the log) are not read here.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from ffpipe.system.errors import UserError
from ffpipe.system.files import read_whole

LARGEST = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one run. goodness, softmax: test errors as fractions; where there is no linear read-out, that of
    the last block's class head. losses: the running mean at each log point. bits: the test loss of the last block's
    head, per token."""

    goodness: float | None
    softmax: float | None
    losses: list[float] | None
    epochs_to_2_percent: float | None
    seconds: float
    engine: str
    stages: int
    weights_sha256: str
    command: str
    machine: str
    date: str
    bits: float | None = None


AllFigures = dict[str, dict[int, Figures]]


def read_figures(path: Path) -> AllFigures:
    """Read the figures by row and seed; none where there is no file. Raises UserError where it is damaged."""
    try:
        return msgspec.json.decode(read_whole(path, LARGEST), type=AllFigures)
    except FileNotFoundError:
        return {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): take it back with `git restore {path}`, or remove it and run the rows again "
            "(which only evaluates those whose run folders are there)"
        ) from None


def add_figures(path: Path, row: str, seed: int, figures: Figures) -> None:
    """Put those of one run in, beside what other processes put in. Raises UserError where the file is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the file itself is replaced, so the lock can't be on it
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = read_figures(path)
        known.setdefault(row, {})[seed] = figures
        tree = {name: {number: asdict(each) for number, each in runs.items()} for name, runs in known.items()}
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        os.close(folder)

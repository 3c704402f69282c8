"""`ffpipe runs`: the runs of a folder, newest last."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ffpipe.config.schema import Config
from ffpipe.runs.inspection import Look, encoded, runs_in, say_errors
from ffpipe.system.errors import escaped
from ffpipe.system.units import format_seconds

COLUMNS = ("run", "recipe", "state", "trained", "errors", "time")
# The length of a name or a reason in a table, whose lines are to fit into 120 columns.
LONGEST = 48


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe runs`."""
    parser.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="folder that runs are in: runs/")
    parser.add_argument("--json", action="store_true", help="print JSON, a list with an object for each run")


def run(options: argparse.Namespace) -> None:
    """List the runs of a folder."""
    found = runs_in(options.folder)
    if options.json:
        print(encoded([as_tree(look) for look in found], indent=2))
    elif not found:
        print(escaped(f"there are no runs in {options.folder}"))
    else:
        print("\n".join(columns([COLUMNS, *map(_row, found)])))


def as_tree(look: Look) -> dict[str, Any]:
    """Turn a run into what JSON has of it."""
    split, errors = look.errors
    return {
        "run": look.name,
        "path": str(look.path),
        "recipe": look.config.recipe if look.config else None,
        "state": look.state,
        "step": look.summary.steps if look.summary else None,
        "epochs_done": look.summary.epochs_done if look.summary else None,
        "epochs": look.config.training.epochs if look.config else None,
        "split": split or None,
        "errors": errors,
        "train_seconds": look.summary.train_seconds if look.summary else None,
        "changed": look.changed,
        "damage": list(look.damage),
    }


def say_epochs(config: Config) -> str:
    """Say how many epochs a run is to have."""
    epochs = config.training.epochs
    return f"{epochs:,} epoch{'s' if epochs > 1 else ''}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows as lines, with their cells below each other."""
    cells = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def clipped(text: str, most: int = LONGEST) -> str:
    """Shorten a text so that it fits into a table."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _row(look: Look) -> tuple[str, ...]:
    summary, config = look.summary, look.config
    trained = "-"
    if config and summary:
        done = summary.epochs_done
        trained = f"step {summary.steps:,}" if done is None else f"{done:.3g} of {say_epochs(config)}"
        trained = say_epochs(config) if look.state == "finished" else trained
    split, errors = look.errors
    said = say_errors(errors) + (f" ({split})" if split != "test" else "") if errors else "-"
    return (
        clipped(look.name),
        config.recipe if config else "-",
        look.state,
        trained,
        clipped(look.damage[0]) if look.damage else said,
        format_seconds(summary.train_seconds) if summary else "-",
    )

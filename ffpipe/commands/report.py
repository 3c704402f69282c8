"""`ffpipe report`: what a run did and learned, or several runs laid over each other, as one HTML file with pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffpipe.config.fields import CHECKPOINTS, DATA_FILES
from ffpipe.system.errors import UserError, escaped

# Seconds between two looks at a run that is going.
WATCHED = 30
MOST_SECONDS = 1_000_000
EXAMPLES = 2000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options beside those that every command on a run has: consent to code, and places by their fields."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; of several, which are compared")
    parser.add_argument("--out", default="", help="HTML file; none: report.html in the run folder, of several here")
    parser.add_argument("--png", default="", metavar="FOLDER", help="folder for the pictures as PNGs, too")
    parser.add_argument(
        "--watch", nargs="?", type=_whole("--watch"), const=WATCHED, default=0, metavar="SECONDS",
        help=f"write it anew, every so many seconds (none given: {WATCHED}), until the run has ended",
    )  # fmt: skip
    parser.add_argument(
        "--examples", type=_whole("--examples"), default=EXAMPLES, help="of the test split that are looked at, at most"
    )
    parser.add_argument("--data-dir", default="", help="folder with local copies of the data")


def run(options: argparse.Namespace) -> None:
    """Write the report and print where it is; with --watch, again and again. Raises UserError."""
    if options.watch:
        write(options.runs, options, seconds=options.watch)
    else:
        write(options.runs, options)


def write(runs: list[str], options: argparse.Namespace, seconds: int = 0) -> None:
    """Write the report of runs by the options of a command, which need not be this one, and print where it is."""
    from ffpipe.reports import watch_report, write_report

    given = vars(options)
    asked: dict[str, Any] = {
        "out": given.get("out") or None,
        "png": given.get("png") or None,
        "model": given.get("training.model"),
        "allow_code": given.get("allow_code", ()),
        "changes": {name: given[name] for name in (CHECKPOINTS, *DATA_FILES) if name in given},
        "data_dir": given.get("data_dir") or given.get("execution.data_dir") or "",
        "examples": given.get("examples", EXAMPLES),
    }
    if seconds:
        watch_report(runs, seconds=seconds, written=_say, **asked)
    else:
        _say(write_report(runs, **asked))


def _say(path: Path) -> None:
    print(escaped(f"wrote {path}"), flush=True)


def _whole(option: str) -> Callable[[str], int]:
    """Return what reads a number from 1 on, and raises UserError for anything else."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_SECONDS):
            raise UserError(f"{option} is {text[:20]!r}: give a whole number from 1 to {MOST_SECONDS:,}")
        return int(text)

    return read

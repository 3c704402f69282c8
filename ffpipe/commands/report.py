"""`ffpipe report`: what a run did and learned, or several runs laid over each other, as one HTML file with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ffpipe.commands.options import add_consent, add_fields, changes, consent, whole
from ffpipe.config.fields import CHECKPOINTS, DATA_FILES
from ffpipe.system.errors import escaped

# Seconds between two looks at a run that is going.
WATCHED = 30
MOST = 1_000_000
# As in reports/network.py, which imports torch.
EXAMPLES = 2000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe report`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; of several, which are compared")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the HTML file; default: report.html in the run folder, of several here",
    )
    parser.add_argument("--png", metavar="FOLDER", help="folder for the pictures as PNGs, too")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=whole("--watch", MOST),
        const=WATCHED,
        default=0,
        metavar="SECONDS",
        help=f"write it anew until the run has ended; between two looks: {WATCHED} seconds",
    )
    parser.add_argument(
        "--examples",
        type=whole("--examples", MOST),
        default=EXAMPLES,
        metavar="N",
        help=f"test examples that the network is asked about, at most; default: {EXAMPLES:,}",
    )
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="folder with local copies of the data")
    add_consent(parser)
    add_fields(parser, (), (*DATA_FILES, CHECKPOINTS))


def run(options: argparse.Namespace) -> None:
    """Write the report and print where it is; with --watch, again and again. Raises UserError."""
    from ffpipe.reports import watch_report, write_report

    asked: dict[str, Any] = {
        "out": options.out,
        "png": options.png,
        "changes": changes(options),
        "data_dir": options.data_dir,
        "examples": options.examples,
        **consent(options),
    }
    if options.watch:
        watch_report(options.runs, seconds=options.watch, written=_say, **asked)
    else:
        _say(write_report(options.runs, **asked))


def check_at_end(options: argparse.Namespace) -> None:
    """Refuse a report that could not be drawn, before training begins. Raises UserError."""
    from ffpipe.reports.report import refuse_without_matplotlib

    if options.report:
        refuse_without_matplotlib()


def write_at_end(options: argparse.Namespace, folder: Path) -> None:
    """Write the report of a run that has just been trained, where the command asks for it."""
    from ffpipe.reports import write_report

    if options.report:
        # All others have been changes of the run, and are refused where a run is read.
        known = {name: value for name, value in changes(options).items() if name in (CHECKPOINTS, *DATA_FILES)}
        _say(write_report(folder, changes=known, **consent(options)))


def _say(path: Path) -> None:
    # At once: with --watch the program goes on, and the output may be a pipe.
    print(escaped(f"wrote {path}"), flush=True)

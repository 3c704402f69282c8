"""`ffpipe predict`: the classes of images by a run's network, on the terminal or in a file."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO

from ffpipe.commands.options import add_run, changes, consent, whole
from ffpipe.runs.inspection import encoded
from ffpipe.system.errors import UserError, escaped, one_line
from ffpipe.system.files import new_file, replacing

if TYPE_CHECKING:
    from ffpipe.runs.inference import Prediction

STDIN = "-"
# Bytes of a path in a line of standard input.
LONGEST_PATH = 1 << 16
MOST_CLASSES = 1_000_000
SHARE = "note: shares of classes are the softmax of goodness, which nothing has trained to be probabilities"
Write = Callable[["Prediction"], None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe predict`."""
    add_run(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="pictures, .npy, .npz, Parquet, Arrow, CSV, folders of pictures; -: paths from standard input",
    )
    parser.add_argument("--readout", metavar="NAME", help="softmax (the default with a head), goodness, last or sum")
    likeliest = "print the K likeliest classes with their probabilities"
    parser.add_argument("--top", type=whole("--top", MOST_CLASSES), default=0, metavar="K", help=likeliest)
    parser.add_argument(
        "--out", metavar="FILE", help="new .csv, .json or .jsonl: path, index, label, name, probabilities"
    )


def run(options: argparse.Namespace) -> int:
    """Print the class of each image, or write it to a file; returns 2 where some could not be read."""
    from ffpipe.runs.inference import predictions

    top, out = options.top, _new(options.out)
    bad: list[UserError] = []
    may_import = {"changes": changes(options), **consent(options)}
    found = predictions(options.run, _paths(options.images), options.readout, refused=bad.append, **may_import)
    count, readout = 0, ""
    with ExitStack() as held:
        write: Write = partial(_print, top)
        for count, each in enumerate(found, 1):
            if count == 1 and out:  # a file comes to be only where there is something to write
                write = held.enter_context(_written(out))
            write(each)
            readout = each.readout
    if not count and not bad:
        raise UserError("standard input names no image: give paths on it, a line for each")
    if readout == "goodness" and (top or out):
        print(SHARE, file=sys.stderr)
    if out and count:
        print(escaped(f"wrote {count:,} predictions to {out}"))
    for error in bad:
        print(f"ffpipe: {one_line(error)}", file=sys.stderr)
    return 2 if bad else 0


def _paths(given: Iterable[str]) -> Iterator[str]:
    """Yield the paths that were given, and in the place of a dash those of standard input."""
    for path in given:
        if path != STDIN:
            yield path
            continue
        if sys.stdin is None:
            raise UserError("standard input is closed: give paths on it, or in the place of -")
        # As bytes, since a name need not be UTF-8, and up to a bound: a line may be without end.
        while line := sys.stdin.buffer.readline(LONGEST_PATH):
            if path := os.fsdecode(line.rstrip(b"\r\n")):
                yield path


def _print(top: int, each: Prediction) -> None:
    """Print a prediction: the class alone, or the likeliest ones with their probabilities."""
    likeliest = ", ".join(f"{name} {share:.2%}" for name, share in each.top(top)) if top else each.name
    print(escaped(f"{each.where}: {likeliest}"))


@contextmanager
def _written(path: Path) -> Iterator[Write]:
    """Write a file of predictions, which is there whole once the block has ended, or not at all."""
    try:
        with replacing(path) as file:
            # Names of files may have bytes that are not UTF-8.
            text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
            try:
                with FORMATS[path.suffix.lower()](text) as write:
                    yield write
                text.flush()
            finally:
                # Else it would close the file when it goes, which `replacing` has not done with.
                with suppress(OSError):  # it has been flushed, or something has failed already
                    text.detach()
    except OSError as error:  # a full disk does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def _csv(file: TextIO) -> Iterator[Write]:
    """Write a line an image, below a line of names."""
    # Python 3.11 quotes no "\r" in lines that end in "\n" alone: they get that end once they have been made.
    lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
    writer, headed = csv.writer(lines), False

    def write(each: Prediction) -> None:
        nonlocal headed
        if not headed:  # with the first prediction, which says how many classes there are
            writer.writerow([*FIELDS, *(f"probability_{label}" for label in range(len(each.scores)))])
            headed = True
        writer.writerow([*(getattr(each, name) for name in FIELDS), *each.probabilities])

    yield write


@contextmanager
def _json(before: str, between: str, after: str, file: TextIO) -> Iterator[Write]:
    """Write objects, with these texts around and between them."""

    def write(each: Prediction) -> None:
        nonlocal before
        tree = {name: getattr(each, name) for name in (*FIELDS, "readout", "probabilities")}
        file.write(before + encoded(tree))
        before = between

    yield write
    file.write(after)


def _new(out: str | None) -> Path | None:
    """Check the file to write. Raises UserError."""
    if out is None:
        return None
    if Path(out).suffix.lower() not in FORMATS:
        raise UserError(f"--out is {out!r}: give a file that ends in {', '.join(FORMATS)}")
    return new_file(out)


FIELDS = ("path", "index", "label", "name")
FORMATS: dict[str, Callable[[TextIO], AbstractContextManager[Write]]] = {
    ".csv": _csv,
    ".json": partial(_json, "[\n", ",\n", "\n]\n"),
    ".jsonl": partial(_json, "", "\n", "\n"),
}

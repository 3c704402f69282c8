"""`ffpipe evaluate` and `ffpipe export`: uses of a finished run, beside predictions."""

from __future__ import annotations

import argparse
import json
import sys
import time

from ffpipe.commands.options import add_run, changes, consent
from ffpipe.config.fields import CHECKPOINTS, DATA_FILES
from ffpipe.system.errors import escaped

# Between lines that say how far a test is.
PROGRESS_SECONDS = 10.0


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe evaluate`."""
    add_run(parser, (*DATA_FILES, CHECKPOINTS))
    parser.add_argument("--split", default="test", metavar="NAME", help="test (the default), validation or train")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="folder with local copies of the data")
    parser.add_argument("--json", action="store_true", help="print JSON: split, examples and errors by read-out")


def evaluate(options: argparse.Namespace) -> None:
    """Print the errors of a run on a split."""
    from ffpipe.runs.inference import evaluate as errors_of

    said = time.monotonic()

    def progress(tested: int, examples: int) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"tested {tested:,} of {examples:,} examples", file=sys.stderr, flush=True)

    where = {"changes": changes(options), "progress": progress, **consent(options)}
    errors = errors_of(options.run, options.split, options.data_dir, **where)
    named = {"goodness": errors.goodness, "softmax": errors.softmax, **errors.others}
    by = {readout: error for readout, error in named.items() if error is not None}
    if options.json:
        print(json.dumps({"split": options.split, "examples": errors.examples, "errors": by}))
        return
    shares = ", ".join(f"{error:.2%} by {readout}" for readout, error in by.items())
    print(f"{options.split} error: {shares} ({errors.examples:,} examples)")


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe export`."""
    add_run(parser)
    parser.add_argument(
        "out", metavar="FILE", help="new file: .safetensors (the weights), .pt2 (a program of torch.export) or .onnx"
    )


def export(options: argparse.Namespace) -> None:
    """Write the network of a run."""
    from ffpipe.runs.export import export as write

    written = write(options.run, options.out, changes=changes(options), **consent(options))
    print(escaped(f"wrote {written}"))

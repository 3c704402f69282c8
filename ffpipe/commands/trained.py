"""`ffpipe evaluate` and `ffpipe export`: uses of a finished run, beside predictions."""

from __future__ import annotations

import argparse
import json
import sys
import time

from ffpipe.commands.options import add_data, add_run, changes, consent
from ffpipe.config.fields import CHECKPOINTS, DATA_FILES
from ffpipe.runs.inspection import say_errors
from ffpipe.system.errors import UserError, escaped

OTHER_DATA = (
    "labelled files or a folder in place of the run's data, as for `ffpipe train`: their test part is tested, "
    "or all of them where there is none"
)
# Between lines that say how far a test is.
PROGRESS_SECONDS = 10.0


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe evaluate`."""
    add_run(parser, (*DATA_FILES, CHECKPOINTS))
    add_data(parser, OTHER_DATA)
    parser.add_argument("--split", metavar="NAME", help="test (the default), validation or train")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="folder with local copies of the data")
    parser.add_argument("--json", action="store_true", help="print JSON: split, examples and errors by read-out")


def evaluate(options: argparse.Namespace) -> None:
    """Print the errors of a run on a split, or on other labelled images. Raises UserError."""
    from ffpipe.runs.inference import evaluate as errors_of

    names, other = options.data, changes(options)
    own = [f"--{field}" for field in DATA_FILES if field in other]
    own += [f"--{name}" for name in ("split", "data-dir") if vars(options)[name.replace("-", "_")]]
    if names and own:
        raise UserError(f"{own[0]} is about the run's own data, and --data names others: leave one of the two out")
    said = time.monotonic()

    def progress(tested: int, examples: int) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"tested {tested:,} of {examples:,} examples", file=sys.stderr, flush=True)

    split = "test" if options.split is None else options.split
    where = {"data": names, "changes": other, "progress": progress, **consent(options)}
    errors = errors_of(options.run, split, options.data_dir, **where)
    named = {"goodness": errors.goodness, "softmax": errors.softmax, **errors.others}
    by = {readout: error for readout, error in named.items() if error is not None}
    if options.json:
        tested = {"data": names} if names else {"split": split}
        print(json.dumps({**tested, "examples": errors.examples, "errors": by}))
        return
    what = f"error on {' '.join(names)}" if names else f"{split} error"
    print(escaped(f"{what}: {say_errors(by)} ({errors.examples:,} examples)"))


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

"""`ffpipe predict`: classify images with a run's network."""

from __future__ import annotations

import argparse
import sys

from ffpipe.commands.options import add_run, changes, consent
from ffpipe.system.errors import UserError, escaped, one_line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe predict`."""
    add_run(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG, JPEG, BMP, GIF or WebP, or .npy of one image or of many"
    )
    parser.add_argument("--readout", metavar="NAME", help="softmax (the default where there is a head) or goodness")


def run(options: argparse.Namespace) -> int:
    """Print the class of each image."""
    from ffpipe.runs.inference import predict

    bad: list[UserError] = []
    may_import = {"changes": changes(options), **consent(options)}
    for each in predict(options.run, options.images, options.readout, refused=bad.append, **may_import):
        print(escaped(f"{each.path}{'' if each.index is None else f'[{each.index}]'}: {each.name}"))
    for error in bad:
        print(f"ffpipe: {one_line(error)}", file=sys.stderr)
    return 2 if bad else 0

"""Types of the scripts' command lines: what is out of range is refused in one line, with exit status 2."""

from __future__ import annotations

import argparse

from ffpipe.system.units import parse_size


def positive(text: str) -> int:
    """Parse a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def size(text: str) -> int:
    """Parse bytes, as 1.5GiB."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

"""Text as rows of ids: a UTF-8 file cut into sequences, each with the symbol that follows its last one.

Without a file it is tiny shakespeare (Karpathy 2015), which is downloaded on first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffpipe.data.download import Remote, flaw_of
from ffpipe.data.known import downloaded, find, given_folder, mirrors_of
from ffpipe.data.source import OpenedPart, Part, file_identity, in_blocks
from ffpipe.system.errors import UserError, refusing

# Ids are stored as bytes.
MOST_SYMBOLS = 256
# Characters that are counted at once: an index of all would take eight times their bytes.
_BLOCK = 1 << 20
VARIABLE = "FFPIPE_TEXT_MIRRORS"
MIRRORS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
    "https://raw.githubusercontent.com/karpathy/ng-video-lecture/master/",
)
SHAKESPEARE = Remote("input.txt", "6fb458f1232090904fb40fe944165e91", 1_115_394)
NAMES = ("tinyshakespeare.txt", "input.txt")


def part(path: Path, field: str, symbols: str, length: int) -> Part:
    """Return the part that is the whole of a file. symbols: "characters" or "bytes". length: symbols in a sequence that
    are predicted."""
    identity = file_identity(path, field)
    return Part("text", ("text", identity, symbols, length), lambda: contents(path, symbols, length))


def shakespeare(data_dir: str, progress: Callable[[str], None], symbols: str, length: int) -> Part:
    """Return tiny shakespeare. data_dir: folder with a local copy; empty: $FFPIPE_DATA; else it is downloaded."""
    if given := given_folder(data_dir):
        folder, setting = given
        path = find([folder / "text", folder], NAMES)
        if path is None:
            raise UserError(
                f"{setting} is {folder}, but tiny shakespeare is not there: looked in {folder / 'text'} and {folder} "
                f"for {' and '.join(NAMES)}; training.data.train names another text"
            )
        return Part(
            "text",
            ("text", file_identity(path, setting), SHAKESPEARE.md5, symbols, length),
            lambda: contents(_unaltered(path), symbols, length),
        )

    def opened() -> OpenedPart:
        path = downloaded(SHAKESPEARE, "tinyshakespeare", mirrors_of(VARIABLE, MIRRORS), None, progress)
        return contents(path, symbols, length)

    return Part("text", ("text", SHAKESPEARE.md5, symbols, length), opened)


def _unaltered(path: Path) -> Path:
    """Return the path of a copy of tiny shakespeare. Raises UserError where it is another text."""
    if flaw := flaw_of(path, SHAKESPEARE):
        raise UserError(f"{path}: {flaw}: it is not tiny shakespeare; training.data.train names another text")
    return path


def contents(path: Path, symbols: str, length: int) -> OpenedPart:
    """Read a file and cut it: sequence i has symbols i * length to (i + 1) * length, so that each is predicted once.

    A rest at the end is too short and goes. Raises UserError: not to be read, no UTF-8, too short, too many
    symbols for a byte.
    """
    ids, count = encoded(path, symbols)
    if len(ids) < length + 1:
        raise UserError(
            f"{path}: it has {len(ids):,} symbols, but a sequence needs {length + 1:,} with the one after it: give a "
            "longer text or a smaller training.data.length"
        )
    # A view: sequences have their ends in common, and nothing is copied.
    rows = np.lib.stride_tricks.sliding_window_view(ids, length + 1)[::length]
    # A row has no label but its own symbols.
    labels = np.zeros(len(rows), np.int64)
    return OpenedPart(str(path), (length + 1,), ids.dtype, 1, labels, lambda: in_blocks(rows), count)


def encoded(path: Path, symbols: str) -> tuple[NDArray[np.uint8], int]:
    """Return the ids of a text (n,) and how many symbols there are: characters in the order of their code points, or
    all 256 bytes. Raises UserError."""
    with refusing(f"{path}: cannot be read"):
        data = path.read_bytes()
    if not data:
        raise UserError(f"{path}: it is empty; expected a text in UTF-8")
    if symbols == "bytes":
        return np.frombuffer(data, np.uint8), MOST_SYMBOLS
    try:
        # Without the mark that some editors begin a file with, which is not a character of the text.
        # UTF-32 has one number a character, so NumPy can count them.
        points = np.frombuffer(data.decode("utf-8-sig").encode("utf-32-le"), np.uint32)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: it is not UTF-8: byte {error.start} is {data[error.start]:#04x}; convert it, or set "
            "training.data.symbols to bytes"
        ) from None
    seen = np.zeros(sys.maxunicode + 1, bool)
    blocks = range(0, len(points), _BLOCK)
    for first in blocks:
        seen[points[first : first + _BLOCK]] = True
    alphabet = np.flatnonzero(seen)
    if len(alphabet) > MOST_SYMBOLS:
        raise UserError(
            f"{path}: it has {len(alphabet):,} different characters, more than {MOST_SYMBOLS}: set "
            "training.data.symbols to bytes"
        )
    number, ids = np.zeros(len(seen), np.uint8), np.empty(len(points), np.uint8)
    number[alphabet] = np.arange(len(alphabet))
    for first in blocks:
        ids[first : first + _BLOCK] = number[points[first : first + _BLOCK]]
    return ids, len(alphabet)

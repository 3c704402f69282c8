"""The cache of canonical files, which are written whole or not at all, also when two processes try at once.

It knows parts and canonical files; it must not know any source or split.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ffpipe.data import arrow
from ffpipe.data.labels import classes_of, plain
from ffpipe.data.scale import scale_like, scale_of, scaled
from ffpipe.data.source import Part
from ffpipe.system.errors import UserError, reason, refusing
from ffpipe.system.files import replacing

# A file that is being written grows all the time.
ABANDONED_SECONDS = 3600.0


def folder() -> Path:
    """Return $FFPIPE_CACHE, else $XDG_CACHE_HOME/ffpipe, else ~/.cache/ffpipe. It is not made yet."""
    try:
        if own := os.environ.get("FFPIPE_CACHE"):
            return Path(own).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "ffpipe"
    except RuntimeError:  # no home folder
        raise UserError("cannot tell where the cache folder is: set FFPIPE_CACHE to a folder") from None


def stored(part: Part, classes: int = 0, scale: float = 0.0, like: arrow.Stored | None = None) -> arrow.Stored:
    """Return the canonical file of `part`, converted now unless an earlier call has done so.

    classes: how many there are; 0: the labels tell. scale: what numbers of images are divided by; 0: they tell. like:
    of the training part, whose classes and scale a test part has. A file that is damaged is written again. Raises
    UserError where the source is wrong or the cache folder cannot be written.
    """
    # The same test files beside other training files may have other classes and another scale.
    given = like and (like.meaning.classes, like.meaning.scale)
    key = hashlib.sha256(repr((arrow.FORMAT, part.identity, classes, scale, given)).encode()).hexdigest()[:32]
    path = folder() / f"{part.name}-{key}.arrow"
    with suppress(arrow.BadFile):  # absent or damaged: both are answered by writing it
        return arrow.Stored(path)
    contents = part.open()
    with _replacing(path) as sink:
        labels = plain(contents.labels, contents.where)
        if like is None:
            known = classes_of(labels, contents.where, classes or contents.classes, contents.names)
            chosen = scale_of(contents, scale)
        else:
            known, chosen = like.meaning.classes, scale_like(contents, like.meaning.scale, scale)
        numbers = known.numbers(labels, contents.where, contents.names)
        said = "" if contents.classes or like is not None else known.found(numbers)
        meaning = arrow.Meaning(known, chosen, contents.found, said)
        arrow.write(sink, scaled(contents, chosen), numbers, meaning)
    return arrow.Stored(path)


def fingerprint(name: str) -> str:
    """Return the fingerprint of the canonical file of this name; empty where there is no whole one."""
    with suppress(arrow.BadFile):
        return arrow.Stored(folder() / name).fingerprint
    return ""


def open_stored(name: str) -> arrow.Stored:
    """Open a canonical file that is there. Raises UserError."""
    with refusing("the cache has lost what was sent there", arrow.BadFile):
        return arrow.Stored(folder() / name)


class Incoming:
    """A canonical file that comes in pieces from elsewhere; in its place once it is whole."""

    def __init__(self, name: str) -> None:
        """Make the cache folder. Raises UserError where it cannot be written, as do the others."""
        # Names come by message: "../other" would be written outside the cache.
        if Path(name).name != name:
            raise UserError(f"{name!r} is not a name of a file in the cache")
        self._stack = ExitStack()
        self._sink = self._stack.enter_context(_replacing(folder() / name))

    def write(self, piece: NDArray[np.uint8]) -> None:
        try:
            self._sink.write(piece.data)
        except OSError as error:
            # By this way out `_replacing` removes what was written, and makes it a UserError.
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def close(self) -> None:
        self._stack.close()


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Replace a file of the cache. Two processes write two temporary files, and the later rename wins; a process that
    has mapped the earlier keeps it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of writers that were killed
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    left.unlink()
        # Drawn, since processes on several hosts that share the folder may have the same number.
        with replacing(path, f".{secrets.token_hex(8)}") as sink:
            yield sink
    except OSError as error:  # sources turn their own into UserErrors, so this one is about writing
        raise UserError(
            f"cannot write {path}: {reason(error)}; FFPIPE_CACHE names another folder for the cache"
        ) from None

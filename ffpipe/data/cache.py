"""Where canonical files lie and how they come to lie there: whole or not at all, also when two processes try at once.

It knows parts and canonical files; it must not know any source or split.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ffpipe.data import arrow
from ffpipe.data.source import Part, derived_classes, reason
from ffpipe.errors import UserError


def folder() -> Path:
    """$FFPIPE_CACHE, else $XDG_CACHE_HOME/ffpipe, else ~/.cache/ffpipe. Not made yet."""
    try:
        if own := os.environ.get("FFPIPE_CACHE"):
            return Path(own).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "ffpipe"
    except RuntimeError:  # no home folder
        raise UserError("cannot tell where the cache folder is: set FFPIPE_CACHE to a folder") from None


def stored(part: Part, classes: int = 0) -> arrow.Stored:
    """The canonical file of `part`, converted now unless an earlier call has done so.

    classes: how many there are; 0: the largest label + 1. A file that is damaged is written again. Raises
    UserError where the source is wrong or the cache folder cannot be written.
    """
    key = hashlib.sha256(repr((arrow.FORMAT, part.identity, classes)).encode()).hexdigest()[:32]
    path = folder() / f"{part.name}-{key}.arrow"
    try:
        return arrow.Stored(path)
    except arrow.BadFile:
        pass  # absent or damaged: both are answered by writing it
    contents = part.open()
    if not len(contents.labels):
        raise UserError(f"{contents.where}: there are no examples")
    with _replacing(path) as sink:
        arrow.write(sink, contents, classes or derived_classes(contents.labels, contents.where))
    return arrow.Stored(path)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place if the block succeeds and vanishes if it does not.

    Two processes write two temporary files, and the later rename wins; who has mapped the earlier keeps it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    except OSError as error:  # sources turn their own into UserErrors, so this one is about writing
        raise UserError(
            f"cannot write {path}: {reason(error)}; FFPIPE_CACHE names another folder for the cache"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()

"""The folder in which the layerwise engine leaves things, and what killed runs left there.

Nothing is made before a run begins, and what was made for it goes with it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ffpipe.config.schema import Execution
from ffpipe.system.errors import UserError, reason
from ffpipe.system.leftovers import own_folder, remove_own, sweep, sweep_all

PREFIX = "ffpipe-spool"


def check(execution: Execution) -> None:
    """Refuse a folder that cannot be made or written. Makes nothing."""
    if not execution.spool:
        return
    asked = Path(execution.spool).absolute()
    # A folder that is not there yet would be made in the nearest one that is.
    there = next(folder for folder in (asked, *asked.parents) if folder.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(
            f"execution.spool {execution.spool} cannot be written ({reason(error)}): give a folder with room"
        ) from None


def make_room(spool: str, run: Path | None) -> None:
    """Remove what killed runs left, before room is measured. spool: an `execution.spool`. run: a run folder whose lock
    the caller holds, so that no living process has a spool in it."""
    if run is not None:
        sweep_all(run, PREFIX)
    if spool:
        sweep(Path(spool), PREFIX)


@contextlib.contextmanager
def spool_folder(inside: Path) -> Iterator[Path]:
    """Make a folder, which is removed with all in it. Raises OSError."""
    missing = [folder for folder in (inside, *inside.parents) if not folder.exists()]
    inside.mkdir(parents=True, exist_ok=True)
    place = own_folder(inside, PREFIX)
    try:
        yield place
    finally:
        remove_own(place)
        with contextlib.suppress(OSError):  # somebody has put something there
            for folder in missing:
                folder.rmdir()

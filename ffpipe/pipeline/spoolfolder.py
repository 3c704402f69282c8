"""Where the layerwise engine leaves things: whether that can be written, what room there is, what killed runs left.

Nothing is made before a run begins, and what was made for it goes with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ffpipe import checkpoint
from ffpipe.config import Execution
from ffpipe.errors import UserError
from ffpipe.pipeline.chapters import Snapshots
from ffpipe.pipeline.job import Job
from ffpipe.pipeline.leftovers import own_folder, sweep, sweep_all
from ffpipe.runs import RunFolder

PREFIX = "ffpipe-spool"


def check(execution: Execution) -> None:
    """Raises UserError where the folder that was asked for cannot be made or written. Makes nothing."""
    if not execution.spool:
        return
    there = Path(execution.spool).absolute()
    while not os.path.lexists(there):
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"execution.spool {execution.spool} cannot be written ({reason}): give a folder with room"
        ) from None


def make_room(execution: Execution, run: Path | None) -> None:
    """Remove what killed runs left, which comes before the question how much room there is.

    run: a run folder whose lock the caller holds, so that no living process has a spool in it.
    """
    if run is not None:
        sweep_all(run, PREFIX)
    if execution.spool:
        sweep(Path(execution.spool), PREFIX)


def room(execution: Execution) -> tuple[Path, int]:
    """The folder on whose disk the spool will be, as far as it exists yet, and the bytes free there."""
    place = as_far_as_it_exists(Path(execution.spool or execution.run_dir or "runs"))
    return place, shutil.disk_usage(place).free


def snapshots_beside(job: Job) -> Snapshots | None:
    """Those that a run will write to the disk of its spool; None where they go elsewhere. Raises UserError."""
    execution = job.config.execution
    store = RunFolder(Path(execution.run_dir or "runs")).store(job.config)
    spool, _ = room(execution)
    if store.folder is None or as_far_as_it_exists(store.folder).stat().st_dev != spool.stat().st_dev:
        return None
    there = checkpoint.whole_snapshots(store)
    first = int(there[-1].removeprefix("step-")) if there else 0
    return Snapshots(
        execution.keep_snapshots, len(there), first, job.steps, execution.snapshot_steps, execution.snapshot_seconds > 0
    )


def as_far_as_it_exists(folder: Path) -> Path:
    """The folder itself, or the nearest one above it."""
    place = folder.absolute()
    while not os.path.isdir(place):
        place = place.parent
    return place


@contextlib.contextmanager
def spool_folder(inside: Path) -> Iterator[Path]:
    """A new folder, removed with all in it, and with those around it that were made for it. Raises OSError."""
    made = []
    for folder in (inside, *inside.parents):
        if os.path.lexists(folder):
            break
        made.append(folder)
    try:
        inside.mkdir(parents=True, exist_ok=True)
        place = own_folder(inside, PREFIX)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # others came to use it
                folder.rmdir()

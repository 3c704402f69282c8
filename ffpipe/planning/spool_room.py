"""Where a spool will be, what room there is, and which snapshots go to the same disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ffpipe.config.schema import Execution
from ffpipe.pipeline.job import Job
from ffpipe.planning.chapters import Snapshots
from ffpipe.storage import checkpoint
from ffpipe.storage.store import store_of


def room(execution: Execution) -> tuple[Path, int]:
    """The folder on whose disk the spool will be, as far as it exists yet, and the bytes free there."""
    place = as_far_as_it_exists(Path(execution.spool or execution.run_dir or "runs"))
    return place, shutil.disk_usage(place).free


def snapshots_beside(job: Job) -> Snapshots | None:
    """Those that a run will write to the disk of its spool; None where they go elsewhere. Raises UserError."""
    execution = job.config.execution
    store = store_of(job.config, Path(execution.run_dir or "runs"))
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

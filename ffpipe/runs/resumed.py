"""A run that goes on: its config with what a command changes, and its newest snapshot, held against its job.

All of it comes before anything is started or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ffpipe.config.fields import DATA_FILES
from ffpipe.config.schema import Config
from ffpipe.pipeline.job import Job, Model
from ffpipe.pipeline.snapshot_schema import snapshot_schema
from ffpipe.runs import places
from ffpipe.runs.folder import RunFolder, open_run
from ffpipe.runs.inspection import is_running
from ffpipe.runs.model import Given, with_model
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import Misfit, Unreachable, UserError


class Resumed(NamedTuple):
    """A run that exists, the config that it goes on with, and the user's code in it."""

    folder: RunFolder
    config: Config
    model: Model

    @property
    def origin(self) -> str:
        """The place from which it goes on, in words. Raises UserError."""
        store = self.folder.store(self.config)
        whole = checkpoint.whole_snapshots(store)
        if not whole:
            return "from the start: there is no whole snapshot"
        step = checkpoint.read_manifest(store, whole[-1]).step
        return f"from step {step:,}, its newest snapshot (if no file of it is damaged)"


def resumed(
    run: str | Path, changes: Mapping[str, Any], model: Given | None = None, allow_code: Iterable[str] = ()
) -> Resumed:
    """Work out what a run goes on with. Raises UserError as `ffpipe.resume` does, but for data and snapshots."""
    folder, before = open_run(run)
    if kept := [name for name in ("recipe", "execution.run_dir") if name in changes]:
        raise UserError(f"{kept[0]} is not to be changed: a run goes on in its own folder, under its own name")
    # Asked again by the lock itself; here before the user's code is imported and data are read.
    if is_running(folder.path):
        raise UserError(f"another process is training run {folder.path}: wait for it, or end it")
    past = folder.known_past()
    before, of_user = with_model(before, model, allow_code, f"run {run}", past.code)
    config = places.of_run(before, folder.path, changes, writes=True)
    data = replace(before.training.data, train=config.training.data.train, test=config.training.data.test)
    if replace(before.training, epochs=config.training.epochs, data=data) != config.training:
        raise UserError(
            "a run goes on with what it began with: of training only training.epochs can be changed, and where its "
            f"data are ({', '.join(DATA_FILES)})"
        )
    return Resumed(folder, places.followed(config, folder.path, past.place), of_user)


def newest_whole(store: Store, job: Job, view: View) -> checkpoint.Manifest | None:
    """Return the newest snapshot of which every file is what this job writes; others are named and passed over.

    Raises Unreachable where that cannot be known; Misfit where there is none, but whole ones of another network, which
    a run that began anew would remove.
    """
    found, misfits, notes = None, list[Misfit](), list[str]()
    for folder in reversed(checkpoint.whole_snapshots(store)):
        try:
            found = verified(store, folder, job)
            break
        except Unreachable:
            raise
        except UserError as error:
            misfits += [error] if isinstance(error, Misfit) else []
            notes.append(f"warning: {error}; trying the snapshot before it")
    # Without the notes, which would say that something is tried.
    if found is None and misfits:
        raise misfits[0]
    for note in notes:
        view.note(note)
    return found


def other_rates(job: Job, epochs: int, step: int) -> tuple[str, ...]:
    """Say in a line that rates until `step` were others than in a run of as many epochs as the job has; return nothing
    where they were not. epochs: of the job that made these steps."""
    network = job.network
    rates = [outline.rates for outline in network.outlines] + ([network.rates] if network.has_head else [])
    # A schedule that changes within an epoch is another one at the first step of each too.
    made = range(0, step, network.steps_per_epoch)
    other = {
        now.schedule
        for now in rates
        if any(now.factor(each) != replace(now, epochs=epochs).factor(each) for each in made)
    }
    if not other:
        return ()
    now = job.config.training.epochs
    return (
        f"schedule {', '.join(sorted(other))}: rates are those of {now} epochs from here on and were those of {epochs} "
        f"before, so the result is not that of {now} epochs from the start",
    )


def verified(store: Store, folder: str, job: Job) -> checkpoint.Manifest:
    """Read every file of a snapshot once. Raises UserError naming the first that is wrong or missing."""
    manifest = checkpoint.read_manifest(store, folder)
    if manifest.input != job.input:
        raise Misfit(f"snapshot {store.place(folder)} is of a network for {manifest.input}, not for {job.input}")
    files = snapshot_schema(job.network, manifest.step)
    if other := sorted(files.keys() ^ manifest.files.keys()):
        has = "lacks" if other[0] in files else "has"
        raise Misfit(f"snapshot {store.place(folder)} {has} {other[0]}: it is of another network than the config")
    for name, contents in files.items():
        checkpoint.read_tensors(store, folder, manifest, name, contents)
    return manifest

"""The snapshots of a run, held against its job before any of them is gone on from."""

from __future__ import annotations

from ffpipe.pipeline.contents import snapshot_contents
from ffpipe.pipeline.job import Job
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import Misfit, Unreachable, UserError


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
    if found is None and misfits:
        raise misfits[0]
    for note in notes:
        view.note(note)
    return found


def verified(store: Store, folder: str, job: Job) -> checkpoint.Manifest:
    """Read every file of a snapshot once. Raises UserError naming the first that is wrong or missing."""
    manifest = checkpoint.read_manifest(store, folder)
    if manifest.input != job.input:
        raise Misfit(f"snapshot {store.place(folder)} is of a network for {manifest.input}, not for {job.input}")
    files = snapshot_contents(job.network, manifest.step)
    if other := sorted(files.keys() ^ manifest.files.keys()):
        has = "lacks" if other[0] in files else "has"
        raise Misfit(f"snapshot {store.place(folder)} {has} {other[0]}: it is of another network than the config")
    for name, contents in files.items():
        checkpoint.read_tensors(store, folder, manifest, name, contents)
    return manifest

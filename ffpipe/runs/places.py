"""The one place that decides what a run folder or a config file, which may be a stranger's, may touch outside itself.

Code has a rule of its own (model.py). Otherwise, files on this host may be read, up to a bound. Nothing else outside is
written, and no store or address on a network is asked, unless the user names the place in the command, or did so when
the run was made or resumed here: that is kept in the cache folder, which no run folder can bring along.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from ffpipe.config.fields import CHECKPOINTS, DATA_FILES, override
from ffpipe.config.schema import Config
from ffpipe.data import cache
from ffpipe.storage.store import whole_place
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded, scheme_of

# The fields that a command that only reads a run uses.
READ = (CHECKPOINTS, *DATA_FILES)


def of_run(config: Config, run: Path, changes: Mapping[str, Any], writes: bool) -> Config:
    """Return the config of a run folder with what the command changes, once nothing in it leads outside without the
    user's word. writes: whether snapshots and the spool are to be written, or only read. Raises UserError."""
    if more := [] if writes else sorted(changes.keys() - set(READ)):
        raise UserError(f"{more[0]} is not to be changed for a run that is read: of its fields {', '.join(READ)} are")
    # With the changes, so that a place which the user replaces is not asked about.
    config = override(config, changes)
    for field, place in _places(config, run):
        harmless = _is_below(place, run) or (not writes and scheme_of(place) in ("", "file"))
        if field not in changes and not harmless and not _mark(run, place).exists():
            leads = f"run {run} leads to {place} by its {field}, which is outside of it"
            raise UserError(f"{leads}: give --{field} {quote(place)} if that is to be used")
    return config


def of_file(config: Config, file: Path, changes: Mapping[str, Any]) -> Config:
    """Return the same for a config from a file, which may name places below its own folder and the working folder."""
    config = override(config, changes)
    named = _places(config, None)
    # A file may say where the run folder is to be made; one that is there is where it is, whatever its config says.
    if config.execution.run_dir:
        named.append(("execution.run_dir", os.path.realpath(expanded(config.execution.run_dir))))
    for field, place in named:
        if field not in changes and not any(_is_below(place, base) for base in (file.parent, Path())):
            raise UserError(
                f"{file} names {place} for {field}, which is outside of its folder and of this one: "
                f"give --{field} {quote(place)} if that is to be used"
            )
    return config


def remember(config: Config, run: Path) -> None:
    """Keep in mind that the user has named these places for the run in this folder."""
    for _, place in _places(config, run):
        if not _is_below(place, run):
            mark = _mark(run, place)
            with suppress(OSError):  # the user has to name them again then
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()


def followed(config: Config, run: Path, was: str) -> Config:
    """Return the config with its files where they are now, if they were moved together with the run.

    was: where the run folder was when the config was written; empty where that is not known. Raises UserError naming
    the field that gives the place of a file which is gone.
    """

    def moved(name: str) -> str:
        there = os.path.normpath(run.absolute() / os.path.relpath(name, was)) if was and os.path.isabs(name) else name
        return there if not os.path.exists(name) and os.path.exists(there) else name

    data, execution = config.training.data, config.execution
    data = replace(data, train=tuple(map(moved, data.train)), test=tuple(map(moved, data.test)))
    for field, names in zip(DATA_FILES, (data.train, data.test), strict=True):
        for name in names:
            # No address is asked here, and whoever reads the data says if a pattern finds none.
            if not (scheme_of(name) or set("*?[") & set(name) or os.path.exists(expanded(name))):
                raise UserError(f"run {run}: {name} is not there any more: give its new place with --{field}")
    execution = replace(execution, data_dir=moved(execution.data_dir))
    return replace(config, training=replace(config.training, data=data), execution=execution)


def refuse_other_data(before: str, now: str, source: str) -> None:
    """Raise UserError for other data than a run began with, by their fingerprints; empty: not known."""
    if before and before != now:
        raise UserError(
            f"training.data: what {source} gives now is not what the run began with: put that back, name it "
            f"with --{DATA_FILES[0]} or --data-dir, or begin a new run"
        )


def _places(config: Config, run: Path | None) -> list[tuple[str, str]]:
    """List what is written or is on a network, with the fields. run: a run folder, which has a place for snapshots."""
    execution, data = config.execution, config.training.data
    checkpoints = whole_place(execution.checkpoints) or (str(run / "checkpoints") if run else "")
    spool = execution.spool and str(expanded(execution.spool))
    local = [(CHECKPOINTS, checkpoints), ("execution.spool", spool)]
    files = [(field, name) for field, names in zip(DATA_FILES, (data.train, data.test), strict=True) for name in names]
    named = [(field, place) for field, place in local if place] + [each for each in files if scheme_of(each[1])]
    # Links are followed: one within a run folder may lead out of it.
    return [(field, place if scheme_of(place) else os.path.realpath(place)) for field, place in named]


def _is_below(place: str, folder: Path) -> bool:
    return not scheme_of(place) and Path(place).is_relative_to(os.path.realpath(folder))


def _mark(run: Path, place: str) -> Path:
    """Return the file in the cache folder that says that the user named this place for the run in this folder."""
    # A hash, since a place may hold any character and be longer than a file's name may be.
    name = hashlib.sha256(f"{os.path.realpath(run)}\0{place}".encode("utf-8", "replace")).hexdigest()
    return cache.folder() / "places" / name

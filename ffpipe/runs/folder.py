"""A run folder: what `ffpipe train` writes and everything after training reads.

config.toml  metrics.parquet  summary.json  past.json  checkpoints/  .lock  and, if asked for, trace.json

metrics.parquet and summary.json are for people; a run that goes on reads past.json, which can be parsed in bounded
memory, as a damaged Parquet file cannot. The measurements of the stages in summary.json are read back where a run that
is at its end is resumed, since nothing measures them again; without them the run goes on all the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from ffpipe.config.fields import from_tree, to_toml
from ffpipe.config.schema import Config
from ffpipe.runs.inspection import (
    CONFIG,
    LARGEST_SUMMARY,
    LOCK,
    METRICS,
    PAST,
    SUMMARY,
    config_tree,
    decoded,
    encoded,
    read_past,
    refuse_no_folder,
)
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store, store_of
from ffpipe.system.errors import UserError, reason, refuse_other, refusing
from ffpipe.system.files import PATH, expanded, replacing
from ffpipe.telemetry.metrics import write_metrics
from ffpipe.telemetry.report import MOST_ROWS, History

# How often a lock is asked for: another trainer has it for as long as it lives, a look at the run for a moment.
LOCK_TRIES, LOCK_PAUSE_SECONDS = 10, 0.02
# A row of metrics takes 150 to 250 bytes; a run that is trained for longer, again and again, adds to its own.
LARGEST_PAST = 3 * 250 * MOST_ROWS


@dataclass(frozen=True)
class Measured:
    """The part of summary.json that is of the stages which trained the weights."""

    weights_sha256: str
    engine: str
    stages: int
    stage_layers: list[list[int]]
    replicas: list[int]
    chunk: int
    window: int
    start_seconds: float | None
    peak_rss_bytes: list[int]
    peak_device_bytes: list[int]
    efficiency: float | None
    time_shares: list[dict[str, float]]


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.metrics = path / METRICS
        self.summary = path / SUMMARY
        self.past = path / PAST
        self.trace = path / "trace.json"

    def make(self) -> None:
        """Make the folder. Raises UserError where that cannot be, or it was made meanwhile."""
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            why = f"run folder {self.path} cannot be made ({reason(error)})"
            raise UserError(f"{why}: give another with --run-dir") from None

    def store(self, config: Config) -> Store:
        return store_of(config, self.path)

    def holds(self, store: Store) -> bool:
        """Return whether snapshots are in the run folder, thus on the same disk as all else."""
        return store.folder == self.path.absolute() / "checkpoints"

    def name(self, past: History, store: Store) -> str:
        """Return the run's name in the place of its snapshots; empty where it does not have one yet. Raises UserError
        where the place is another run's."""
        owner, own = checkpoint.owner(store), self.holds(store)
        # If past.json is lost, the claim that lies in the run's own folder is its own.
        if own and not past.run:
            return owner
        checkpoint.refuse_taken(store, past.run)
        # A run that has saved anything has its claim there: these may be another's, whose claim is lost.
        if past.run and not owner and not own and checkpoint.whole_snapshots(store):
            raise UserError(f"{store.root} holds snapshots that are not of run {self.path}: give the place of its own")
        return past.run

    def newest_snapshot(self, store: Store) -> str:
        """Name of the newest whole snapshot's folder. Raises UserError where there is none, or it is another run's."""
        if not self.holds(store):
            past = None
            with suppress(UserError):  # where that is lost, the run does not know its name
                past = self.read_past()
            if past is not None:
                self.name(past, store)
        whole = checkpoint.whole_snapshots(store)
        if not whole:
            raise UserError(f"run {self.path} has no whole snapshot in {store.root}: it never came so far")
        return whole[-1]

    @contextmanager
    def lock(self) -> Iterator[str]:
        """Hold the run against other trainers; a process that dies holds nothing. Raises UserError.

        Gives a warning where the file system has no locks, as some network file systems do not; else "". The file
        stays, since whoever removed it could take it from a process that is about to lock it.
        """
        path, warning = self.path / LOCK, ""
        with refusing(f"run {self.path} cannot be locked: {path}"):
            # For writing: NFS gives no exclusive lock on a file that is open for reading. Not through a link, which a
            # stranger's folder may have: the file would be made elsewhere.
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with open(handle, "rb"):
            try:
                if not _locked(handle):
                    raise UserError(f"another process is training run {self.path}: wait for it, or end it")
            except OSError as error:
                warning = f"warning: {path} cannot be locked ({reason(error)}): let nobody else train this run"
            yield warning

    def write_config(self, config: Config) -> None:
        """Write config.toml, whole or not at all. Raises UserError."""
        # A copy of the run starts from this file, so it must not name the folder that is taken.
        kept = replace(config, execution=replace(config.execution, run_dir=""))
        text = to_toml(kept).encode()
        with refusing(f"{self.config} cannot be written"), replacing(self.config) as file:
            file.write(text)

    def read_past(self) -> History:
        """Read what a run that goes on has behind it. Raises UserError and Unreachable (inspection.py)."""
        return read_past(self.past, LARGEST_PAST)

    def known_past(self) -> History:
        """Read what a run has behind it, or return an empty past where that cannot be read."""
        with suppress(UserError):
            return self.read_past()
        return History()

    def write_past(self, past: History) -> None:
        """Write past.json, whole or not at all."""
        with replacing(self.past) as file:
            file.write(msgspec.json.encode(past))

    def write_metrics(self, past: History, steps_per_epoch: int) -> None:
        write_metrics(self.metrics, past.rows, steps_per_epoch, past.evaluations)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        with replacing(self.summary) as file:
            file.write((encoded(summary, indent=2) + "\n").encode())

    def measured(self, weights_sha256: str) -> dict[str, Any]:
        """Return what the summary has of the stages that trained these weights; nothing where it cannot be read or is
        of others."""
        with suppress(UserError, FileNotFoundError):
            found = decoded(self.summary, LARGEST_SUMMARY, Measured)
            return asdict(found) if found.weights_sha256 == weights_sha256 else {}
        return {}


def new_run(config: Config) -> RunFolder:
    """Name the folder of a run that begins now. Raises UserError where it exists, or cannot be written down."""
    asked = config.execution.run_dir
    path = expanded(asked or f"runs/{config.recipe}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    if not asked and path.exists():  # a second run within one second
        path = path.with_name(f"{path.name}-{os.getpid()}")
    if os.path.exists(path):
        raise UserError(f"run folder {path} exists: give a new one with --run-dir, or remove it")
    _check_name(path, "give another with --run-dir")
    return RunFolder(path)


def _check_name(path: Path, instead: str) -> None:
    """Refuse a name that is not text: a config cannot hold it, nor does Arrow open it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"run folder {path} is not text in UTF-8: {instead}") from None


def open_run(path: str | Path) -> tuple[RunFolder, Config]:
    """Find an existing run and its config. Raises UserError where there is none, or nothing to go on from."""
    refuse_other(path, PATH, "the run", "its folder, as result.run_dir")
    folder = RunFolder(expanded(path))
    refuse_no_folder(folder.path, path)
    _check_name(folder.path.absolute(), "rename it, or give a link to it")
    if not os.path.isfile(folder.config):
        raise UserError(f"{path} is not a run: it has no config.toml")
    return folder, from_tree(config_tree(folder.config), where=str(folder.config))


# Once: a summary with them is written for every snapshot.
@cache
def versions() -> dict[str, str]:
    """Return the versions that a run was made with."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "ray", "ffpipe")}}


def _locked(handle: int) -> bool:
    """Take the lock of a file, where no other process has it for more than a moment. Raises OSError where it cannot
    be locked at all."""
    for left in reversed(range(LOCK_TRIES)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        if left:
            time.sleep(LOCK_PAUSE_SECONDS)
    return False

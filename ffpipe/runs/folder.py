"""A run folder: what `ffpipe train` writes and everything after training reads.

config.toml  metrics.parquet  summary.json  past.json  checkpoints/  and, if asked for, trace.json; while it is
trained, .lock

metrics.parquet and summary.json are for people and are never read back; a run that goes on reads past.json, which
can be parsed in bounded memory, as a damaged Parquet file cannot.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from ffpipe.config.fields import read_config, to_toml
from ffpipe.config.schema import Config
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store, store_of
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded, read_whole, replace_whole
from ffpipe.telemetry.report import MOST_ROWS, Past

# A row of metrics takes 80 to 120 bytes; a run that is trained for longer, again and again, adds to its own.
LARGEST_PAST = 3 * 120 * MOST_ROWS


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.parquet"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def past(self) -> Path:
        return self.path / "past.json"

    @property
    def trace(self) -> Path:
        return self.path / "trace.json"

    def store(self, config: Config) -> Store:
        """Where its snapshots are."""
        return store_of(config, self.path)

    def holds(self, store: Store) -> bool:
        """Whether the snapshots are in the run folder, on the same disk as all else."""
        return store.folder == self.path.absolute() / "checkpoints"

    def name(self, past: Past, store: Store) -> str:
        """What the run is called in the place of its snapshots; empty where it has no name yet. Raises UserError where
        the place is another run's."""
        owner, own = checkpoint.owner(store), self.holds(store)
        if own and not past.run:
            return owner
        checkpoint.refuse_taken(store, past.run)
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

        Gives a warning where the file system has no locks.
        """
        path = self.path / ".lock"
        handle, warning = _hold(path, self.path)
        try:
            yield warning
        finally:
            with suppress(OSError):
                if not warning:
                    path.unlink()
            os.close(handle)

    def write_config(self, config: Config) -> None:
        """Whole or not at all. Raises UserError."""
        # A copy of the run starts from this file, so it must not name the folder that is taken.
        kept = replace(config, execution=replace(config.execution, run_dir=""))
        text = to_toml(kept).encode()
        try:
            replace_whole(self.config, lambda file: file.write(text))
        except OSError as error:
            raise UserError(f"{self.config} cannot be written: {error.strerror or error}") from None

    def read_past(self) -> Past:
        """What a run that goes on has behind it.

        Raises UserError where the file is absent or damaged, Unreachable where it cannot be read.
        """
        try:
            return msgspec.json.decode(read_whole(self.past, LARGEST_PAST), type=Past)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"cannot read {self.past}: {error}") from None

    def code_sha256(self) -> str:
        """SHA-256 of the source of the user's network that the run began with; empty where it is not known."""
        with suppress(UserError):
            return self.read_past().code
        return ""

    def write_past(self, past: Past) -> None:
        """Whole or not at all."""
        replace_whole(self.past, lambda file: file.write(msgspec.json.encode(past)))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Whole or not at all."""
        text = (json.dumps(summary, indent=2) + "\n").encode()
        replace_whole(self.summary, lambda file: file.write(text))


def _hold(path: Path, run: Path) -> tuple[int, str]:
    """An open file with a lock on it, and a warning where there are none. Raises UserError."""
    while True:
        try:
            # For writing: NFS gives no exclusive lock on a file that is open for reading.
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise UserError(f"run {run} cannot be locked: {path}: {error.strerror or error}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had the lock before has removed its file, perhaps after we had opened it.
            if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle, ""
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                reason = error.strerror or error
                return (
                    handle,
                    f"warning: {path} cannot be locked ({reason}): see to it that nobody else trains this run",
                )
            os.close(handle)
            raise UserError(f"another process is training run {run}: wait for it, or end it") from None
        os.close(handle)


def new_run(config: Config) -> RunFolder:
    """Make the folder of a run that begins now. Raises UserError where it exists or can't be made."""
    asked = config.execution.run_dir
    path = expanded(asked) if asked else Path("runs") / f"{config.recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not asked and path.exists():  # a second run within one second
        path = path.with_name(f"{path.name}-{os.getpid()}")
    path = path.absolute()
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"run folder {path} exists: give a new one with --run-dir, or remove it") from None
    except OSError as error:
        raise UserError(f"run folder {path} cannot be made ({error.strerror}): give another with --run-dir") from None
    folder = RunFolder(path)
    try:
        folder.write_config(config)
    except UserError:
        path.rmdir()
        raise
    return folder


def check_new(config: Config) -> None:
    """Refuse a run folder that exists, or whose name cannot be written down, before anything is started."""
    asked = config.execution.run_dir
    path = expanded(asked or "runs").absolute()
    if asked and os.path.exists(path):
        raise UserError(f"run folder {path} exists: give a new one with --run-dir, or remove it")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"run folder {path} is no text in UTF-8: give another with --run-dir") from None


def open_run(path: str | Path) -> tuple[RunFolder, Config]:
    """An existing run and its config. Raises UserError where the folder is none, or keeps nothing to go on from."""
    folder = RunFolder(expanded(path))
    if not os.path.isdir(folder.path):
        raise UserError(f"{path} is no folder: give the folder of a run, as `ffpipe train` printed it")
    if not os.path.isfile(folder.config):
        raise UserError(f"{path} is no run: it has no config.toml")
    if not os.path.getsize(folder.config):  # which would be read as one of defaults alone
        raise UserError(f"{folder.config} is empty: what run {path} was is lost")
    config = read_config(folder.config)
    return folder, config


def versions() -> dict[str, str | None]:
    """The versions that a run was made with; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "ray", "ffpipe"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # engines in one process do without Ray
            found[name] = None
    return found

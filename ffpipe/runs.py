"""A run folder: what `ffpipe train` writes and everything after training reads.

config.toml  metrics.parquet  summary.json  past.json  checkpoints/  and, if asked for, trace.json

metrics.parquet and summary.json are for people and are never read back; a run that goes on reads past.json, which
can be parsed in bounded memory, as a damaged Parquet file cannot.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from ffpipe import checkpoint
from ffpipe.config import Config
from ffpipe.errors import UserError
from ffpipe.fields import read_config, to_toml
from ffpipe.files import read_whole
from ffpipe.store import Store
from ffpipe.telemetry.report import Past

# Room for about a million rows of metrics.
LARGEST_PAST = 64 << 20


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
        return Store(config.execution.checkpoints or str(self.path / "checkpoints"))

    def newest_snapshot(self, store: Store) -> str:
        """Name of the newest whole snapshot's folder. Raises UserError where there is none."""
        whole = checkpoint.whole_snapshots(store)
        if not whole:
            raise UserError(f"run {self.path} has no whole snapshot in {store.root}: it never came so far")
        return whole[-1]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against other trainers; a process that dies holds nothing. Raises UserError."""
        with self.config.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another process is training run {self.path}: wait for it, or end it") from None
            yield

    def write_config(self, config: Config) -> None:
        """config.toml, in place: the lock is on this very file."""
        # A copy of the run starts from this file, so it must not name the folder that is taken.
        kept = replace(config, execution=replace(config.execution, run_dir=""))
        self.config.write_text(to_toml(kept), encoding="utf-8")

    def read_past(self) -> Past:
        """What a run that goes on has behind it. Raises UserError where the file is absent or damaged."""
        try:
            return msgspec.json.decode(read_whole(self.past, LARGEST_PAST), type=Past)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"cannot read {self.past}: {error}") from None

    def write_past(self, past: Past) -> None:
        """Whole or not at all."""
        self._replace(self.past, msgspec.json.encode(past))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Whole or not at all."""
        self._replace(self.summary, (json.dumps(summary, indent=2) + "\n").encode())

    @staticmethod
    def _replace(path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.tmp")  # one name, so that what a killed process left is written over
        temporary.write_bytes(data)
        os.replace(temporary, path)


def new_run(config: Config) -> RunFolder:
    """Make the folder of a run that begins now. Raises UserError where it exists or can't be made."""
    asked = config.execution.run_dir
    path = Path(asked) if asked else Path("runs") / f"{config.recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
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
    folder.write_config(config)
    return folder


def check_new(config: Config) -> None:
    """Refuse a run folder that exists, before anything is started."""
    asked = config.execution.run_dir
    if asked and os.path.exists(asked):
        raise UserError(f"run folder {Path(asked).absolute()} exists: give a new one with --run-dir, or remove it")


def open_run(path: str | Path) -> tuple[RunFolder, Config]:
    """An existing run and its config. Raises UserError where the folder is none, or keeps nothing to go on from."""
    folder = RunFolder(Path(path))
    if not os.path.isdir(path):
        raise UserError(f"{path} is no folder: give the folder of a run, as `ffpipe train` printed it")
    if not os.path.isfile(folder.config):
        raise UserError(f"{path} is no run: it has no config.toml")
    config = read_config(folder.config)
    if config.training.method == "backprop":
        raise UserError(
            f"run {path} is of backpropagation, which keeps no weights: train it again with "
            f"ffpipe train {folder.config} --run-dir NEW"
        )
    return folder, config


def versions() -> dict[str, str]:
    """Of what a run was made with."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "ray", "ffpipe")}}

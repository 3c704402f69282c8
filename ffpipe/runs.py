"""A run folder: what `ffpipe train` writes and everything after training reads.

config.toml  metrics.parquet  summary.json  checkpoints/  and, if asked for, trace.json
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffpipe import checkpoint
from ffpipe.config import Config
from ffpipe.errors import UserError


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
    def trace(self) -> Path:
        return self.path / "trace.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def newest_snapshot(self) -> Path:
        """Folder of the newest whole snapshot. Raises UserError where there is none."""
        whole = checkpoint.whole_snapshots(self.checkpoints)
        if not whole:
            raise UserError(f"run {self.path} has no whole snapshot in {self.checkpoints}: it never finished")
        return whole[-1]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Whole or not at all."""
        temporary = self.path / f".summary.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.summary)


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
    folder.checkpoints.mkdir()
    # A copy of the run starts from this file, so it must not name the folder that is taken.
    kept = replace(config, execution=replace(config.execution, run_dir=""))
    folder.config.write_text(kept.to_toml(), encoding="utf-8")
    return folder


def check_new(config: Config) -> None:
    """Refuse a run folder that exists, before anything is started."""
    asked = config.execution.run_dir
    if asked and Path(asked).exists():
        raise UserError(f"run folder {Path(asked).absolute()} exists: give a new one with --run-dir, or remove it")


def open_run(path: str | Path) -> tuple[RunFolder, Config]:
    """An existing run and its config. Raises UserError where the folder is none."""
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise UserError(f"{path} is no folder: give the folder of a run, as `ffpipe train` printed it")
    if not folder.config.is_file():
        raise UserError(f"{path} is no run: it has no config.toml")
    return folder, Config.read(folder.config)

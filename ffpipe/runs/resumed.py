"""The config that a run goes on with, with what a command changes, before anything is started or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffpipe.config.fields import DATA_FILES
from ffpipe.config.schema import Config
from ffpipe.pipeline.job import Model
from ffpipe.runs import places
from ffpipe.runs.folder import RunFolder, open_run
from ffpipe.runs.inspection import is_running
from ffpipe.runs.model import Given, with_model
from ffpipe.storage import checkpoint
from ffpipe.system.errors import UserError


@dataclass(frozen=True)
class Resumed:
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
        return f"from step {checkpoint.read_manifest(store, whole[-1]).step:,}, its newest whole snapshot"


def resumed(
    run: str | Path, changes: Mapping[str, Any], model: Given | None = None, allow_code: Iterable[str] = ()
) -> Resumed:
    """Work out what a run goes on with. Raises UserError as `ffpipe.resume` does, but for what data and snapshots
    hold."""
    folder, before = open_run(run)
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

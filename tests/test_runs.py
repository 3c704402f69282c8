"""A run folder: one trainer at a time, files whole or as they were, and nothing written through a stranger's link."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffpipe import UserError, recipe
from ffpipe.pipeline.job import make_job
from ffpipe.planning.layout import make_layout
from ffpipe.runs.folder import RunFolder, new_run, open_run
from ffpipe.runs.log import RunLog
from ffpipe.runs.view import View
from ffpipe.telemetry.report import History, StageReport


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = recipe("digits")
    folder = new_run(replace(config, execution=replace(config.execution, run_dir=str(tmp_path / "run"))))
    folder.make()
    folder.write_config(config)
    return folder


def test_one_trainer_at_a_time(folder: RunFolder) -> None:
    for _ in range(2):
        with folder.lock() as warning:
            assert warning == ""
            with pytest.raises(UserError, match="another process is training run"), folder.lock():
                pass


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EBADF])
def test_where_there_are_no_locks_it_goes_on_and_says_so(
    error: int, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", none)
    with folder.lock() as warning:
        assert os.strerror(error) in warning


def test_nothing_is_written_through_a_link(folder: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    for name in (".past.json.tmp", ".summary.json.tmp", ".config.toml.tmp"):
        (folder.path / name).symlink_to(mine)
    folder.config.unlink()
    folder.config.symlink_to(mine)
    folder.write_past(History(run="a"))
    folder.write_summary({"status": "running"})
    folder.write_config(recipe("digits"))
    assert mine.read_text() == "precious"
    assert not folder.past.is_symlink()
    assert open_run(folder.path)[1] == recipe("digits")
    (folder.path / ".lock").symlink_to(mine)
    with pytest.raises(UserError, match="cannot be locked"), folder.lock():
        pass


def test_the_seconds_until_training_began_are_those_before_the_first_recovery(folder: RunFolder) -> None:
    job = make_job(recipe("digits"))
    layout = make_layout(job, 2)
    log = RunLog(job, folder, folder.store(job.config), View(), History(), None, asked_at=100.0)
    began = []
    for began_at in (105.0, 230.0):
        log.begin(layout)
        for stage in (1, 0):  # whose times differ: the first one's count
            log.take(StageReport(stage, (stage,), began_at=began_at + stage, train_began=2.5))
        began.append(log.close("failed")["start_seconds"])
    assert began == [7.5, 7.5]


def test_a_config_that_cannot_be_written_stays_as_it_was(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder.config.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"config\.toml cannot be written: No space left"):
        folder.write_config(recipe("mnist"))
    assert folder.config.read_bytes() == before
    assert {path.name for path in folder.path.iterdir()} == {"config.toml"}


def test_an_empty_config_is_not_one_of_defaults(folder: RunFolder) -> None:
    folder.config.write_text("")
    with pytest.raises(UserError, match="is empty"):
        open_run(folder.path)

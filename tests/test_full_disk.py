"""A disk without room, or a store that is away for a while, ends no run before its end and loses nothing saved."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from disturbed import QUICK, STEPS, Disturb, GivenStore, config, reports_each_step, same, train_in

from ffpipe import Interrupt, Result, RunFailed, resume, train
from ffpipe.commands.cli import main
from ffpipe.config.fields import to_toml
from ffpipe.runs.folder import RunFolder
from ffpipe.storage.store import Pieces, Store
from ffpipe.telemetry.report import History


class FullDisk(Store):
    """A store on which there is no room between two points of a run. full: by name of a file, whether there is none."""

    def __init__(self, full: Callable[[str], bool], root: str) -> None:
        super().__init__(root)
        self._full = full

    def write(self, name: str, pieces: Pieces) -> None:
        if name.startswith("step-") and self._full(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        super().write(name, pieces)


def on_full_disk(path: Path, full: Callable[[str], bool]) -> RunFolder:
    """Return a run folder with such a store."""
    return GivenStore(path, partial(FullDisk, full))


def test_a_disk_that_is_full_for_a_while(undisturbed: Result, tmp_path: Path) -> None:
    run = on_full_disk(tmp_path / "run", lambda name: 60 <= int(name[5:13]) <= 120)
    view = Disturb(STEPS + 1, lambda: None)
    same(train_in(run, config(run.path, **{"execution.engine": "local"}), view), undisturbed)
    assert any("No space left on device" in note and "training goes on" in note for note in view.notes)


def test_snapshots_that_cannot_be_made_whole_do_not_fill_the_disk(tmp_path: Path) -> None:
    """Room for one of the files is not room for a snapshot."""
    run = on_full_disk(tmp_path / "run", lambda name: int(name[5:13]) > 60 and "layer-001" in name)
    with pytest.raises(RunFailed, match="could not be written"):
        train_in(run, config(run.path, **{"execution.engine": "local"}))
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert left == ["step-00000040", "step-00000060"]


def test_a_run_folder_that_is_moved_meanwhile_stays_whole(undisturbed: Result, tmp_path: Path) -> None:
    """No snapshot becomes whole under its old name, where there is no config any more."""
    run, moved = tmp_path / "run", tmp_path / "moved"
    view = Disturb(70, partial(os.rename, run, moved))
    with pytest.raises(RunFailed, match="could not be written"):
        train(config(run, **{"execution.engine": "local"}), view, engine=reports_each_step)
    assert any("the run folder was moved or removed" in note for note in view.notes)
    assert not list(run.rglob("manifest.json"))
    same(resume(moved), undisturbed)


def test_a_disk_that_is_full_at_the_end(tmp_path: Path) -> None:
    run = on_full_disk(tmp_path / "run", lambda name: int(name[5:13]) > 120)
    with pytest.raises(RunFailed, match=f"could not be written; .*step-00000120; go on with: ffpipe resume {run.path}"):
        train_in(run, config(run.path, **{"execution.engine": "local"}))


def test_a_failed_run_is_said_in_one_line_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may be as large as one of a snapshot."""
    train(config(tmp_path / "plain", **QUICK))  # for the cache
    path, limits = tmp_path / "config.toml", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text(to_toml(config(tmp_path / "run", **QUICK)))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        assert main(["train", str(path)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("ffpipe: the run failed: the last snapshot, of step 56, could not be written; ")


def test_a_snapshot_is_tried_again_where_that_may_help(tmp_path: Path) -> None:
    plain = train(config(tmp_path / "plain", **QUICK))
    failed: list[str] = []

    class Shaky(Store):
        def write(self, name: str, pieces: Pieces) -> None:
            if failed.count(name) < 2:
                failed.append(name)
                raise OSError("the network is away")
            super().write(name, pieces)

    run = GivenStore(tmp_path / "run", lambda root: Shaky(root, pauses=(0.01, 0.01)))
    assert train_in(run, config(run.path, **QUICK)).weights_sha256 == plain.weights_sha256
    assert any("manifest" in name for name in failed)


class NoRoom(RunFolder):
    """A run folder on a disk that is full for files like this. keeps_past: there is room for past.json."""

    def __init__(self, path: Path, *, keeps_past: bool) -> None:
        super().__init__(path)
        self._keeps_past = keeps_past

    def write_metrics(self, past: History, steps_per_epoch: int) -> None:
        if self._keeps_past:
            no_room()
        super().write_metrics(past, steps_per_epoch)

    def write_past(self, past: History) -> None:
        if past.rows and not self._keeps_past:
            no_room()
        super().write_past(past)


def no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` does, without a name


def test_metrics_that_cannot_be_written_cost_no_snapshot(tmp_path: Path) -> None:
    """A full disk with the run folder on it, where checkpoints are elsewhere."""
    place = tmp_path / "elsewhere"
    asked = config(tmp_path / "run", **QUICK, **{"execution.checkpoints": str(place)})
    view = Disturb(STEPS + 1, lambda: None)
    with pytest.raises(RunFailed, match=f"{tmp_path / 'run'}: No space left .* go on with: ffpipe resume"):
        train_in(NoRoom(tmp_path / "run", keeps_past=True), asked, view)
    assert f"warning: {tmp_path / 'run'}: No space left on device; training goes on" in view.notes
    assert json.loads((max(place.glob("step-*")) / "manifest.json").read_text())["step"] == 56
    assert resume(tmp_path / "run").summary["steps"] == 56


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_snapshot_in_the_run_folder_is_none_without_what_was_known_then(elsewhere: bool, tmp_path: Path) -> None:
    """If snapshots are on another disk, the weights come first."""
    place = tmp_path / ("elsewhere" if elsewhere else "run/checkpoints")
    asked = config(tmp_path / "run", **QUICK, **({"execution.checkpoints": str(place)} if elsewhere else {}))
    view = Disturb(STEPS + 1, lambda: None)
    with pytest.raises(RunFailed, match=r"No space left|could not be written"):
        train_in(NoRoom(tmp_path / "run", keeps_past=False), asked, view)
    assert len(list(place.glob("*/manifest.json"))) == (asked.execution.keep_snapshots if elsewhere else 0)
    what = f"{tmp_path / 'run' / 'past.json'}: No space left" if elsewhere else "could not be made whole: No space left"
    assert any(what in note for note in view.notes)
    assert resume(tmp_path / "run").summary["steps"] == 56


def test_an_interrupt_on_a_full_disk_is_not_called_saved(tmp_path: Path) -> None:
    interrupt = Interrupt()
    run = on_full_disk(tmp_path / "run", lambda name: int(name[5:13]) > 40)
    asked, view = config(run.path, **{"execution.engine": "local"}), Disturb(90, interrupt.request)
    with pytest.raises(
        RunFailed, match=r"of step \d+, could not be written; .*step-00000040; go on with: ffpipe resume"
    ):
        train_in(run, asked, view, interrupt, reports_each_step)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_a_store_that_cannot_be_listed_for_a_while_ends_nothing(tmp_path: Path) -> None:
    asked: list[str] = []

    class Away(Store):
        def folders(self, prefix: str) -> list[str]:
            asked.append(prefix)
            if len(asked) > 3:  # what is asked before it trains
                raise OSError(errno.EIO, os.strerror(errno.EIO), self.root)
            return super().folders(prefix)

    run = GivenStore(tmp_path / "run", Away)
    assert train_in(run, config(run.path, **QUICK)).summary["status"] == "finished"
    assert len(asked) > 3

"""A disk without room, or a store that is away for a while, ends no run before its end and loses nothing saved."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import QUICK, STEPS, Disturb, config, same

from ffpipe import Interrupt, Result, RunFailed, resume, train
from ffpipe.commands.cli import main
from ffpipe.config.fields import to_toml
from ffpipe.runs.folder import RunFolder
from ffpipe.storage.store import Pieces, Store


class FullDisk:
    """A store on which there is no room between two points of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: Callable[[str], bool]) -> None:
        write = Store.write

        def maybe(store: Store, name: str, data: Pieces) -> None:
            if name.startswith("step-") and full(name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            write(store, name, data)

        monkeypatch.setattr(Store, "write", maybe)


def test_a_disk_that_is_full_for_a_while(undisturbed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch, lambda name: 300 <= int(name[5:13]) <= 500)
    view = Disturb(STEPS + 1, lambda: None)
    same(train(config(tmp_path / "run", **{"execution.engine": "local"}), view), undisturbed)
    assert any("No space left on device" in note and "training goes on" in note for note in view.notes)


def test_snapshots_that_cannot_be_made_whole_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one of the files is not room for a snapshot."""
    FullDisk(monkeypatch, lambda name: int(name[5:13]) > 300 and "layer-001" in name)
    with pytest.raises(RunFailed, match="could not be written"):
        train(config(tmp_path / "run", **{"execution.engine": "local"}))
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert left == ["step-00000250", "step-00000300"]


def test_a_disk_that_is_full_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FullDisk(monkeypatch, lambda name: int(name[5:13]) > 1500)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config(tmp_path / "run", **{"execution.engine": "local"})))
    assert main(["train", str(path)]) == 1
    error = capsys.readouterr().err
    assert "could not be written" in error
    assert "step-00001500" in error
    assert f"ffpipe resume {tmp_path / 'run'}" in error


def test_a_snapshot_is_tried_again_where_that_may_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffpipe.storage.store.PAUSES", (0.01, 0.01))
    plain = train(config(tmp_path / "plain", **QUICK))
    write, failed = Store.write, list[str]()

    def shaky(store: Store, name: str, data: Pieces) -> None:
        if failed.count(name) < 2:
            failed.append(name)
            raise OSError("the network is away")
        write(store, name, data)

    monkeypatch.setattr(Store, "write", shaky)
    assert train(config(tmp_path / "run", **QUICK)).weights_sha256 == plain.weights_sha256
    assert any("manifest" in name for name in failed)


def test_metrics_that_cannot_be_written_cost_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk with the run folder on it, where checkpoints are elsewhere."""
    place = tmp_path / "elsewhere"
    asked = config(tmp_path / "run", **QUICK, **{"execution.checkpoints": str(place)})
    monkeypatch.setattr("ffpipe.runs.log.write_metrics", no_room)
    view = Disturb(STEPS + 1, lambda: None)
    with pytest.raises(RunFailed, match=f"{tmp_path / 'run'}: No space left .* go on with: ffpipe resume"):
        train(asked, view)
    assert f"warning: {tmp_path / 'run'}: No space left on device; training goes on" in view.notes
    monkeypatch.undo()
    assert json.loads((max(place.glob("step-*")) / "manifest.json").read_text())["step"] == 56
    assert resume(tmp_path / "run").summary["steps"] == 56


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` does, without a name


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_snapshot_in_the_run_folder_is_none_without_what_was_known_then(
    elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If snapshots are on another disk, the weights come first."""
    place = tmp_path / ("elsewhere" if elsewhere else "run/checkpoints")
    asked = config(tmp_path / "run", **QUICK, **({"execution.checkpoints": str(place)} if elsewhere else {}))
    real = RunFolder.write_past
    monkeypatch.setattr(RunFolder, "write_past", lambda run, past: no_room() if past.rows else real(run, past))
    view = Disturb(STEPS + 1, lambda: None)
    with pytest.raises(RunFailed, match=r"No space left|could not be written"):
        train(asked, view)
    assert len(list(place.glob("*/manifest.json"))) == (asked.execution.keep_snapshots if elsewhere else 0)
    what = f"{tmp_path / 'run' / 'past.json'}: No space left" if elsewhere else "could not be made whole: No space left"
    assert any(what in note for note in view.notes)
    monkeypatch.undo()
    assert resume(tmp_path / "run").summary["steps"] == 56


def test_an_interrupt_on_a_full_disk_is_not_called_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = Interrupt()
    FullDisk(monkeypatch, lambda name: int(name[5:13]) > 100)
    with pytest.raises(
        RunFailed, match=r"of step \d+, could not be written; .*step-00000100; go on with: ffpipe resume"
    ):
        train(config(tmp_path / "run", **{"execution.engine": "local"}), Disturb(300, interrupt.request), interrupt)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_a_store_that_cannot_be_listed_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, asked = Store.folders, list[str]()

    def away(store: Store, prefix: str) -> list[str]:
        asked.append(prefix)
        if len(asked) > 3:  # what is asked before it trains
            raise OSError(errno.EIO, os.strerror(errno.EIO), store.root)
        return folders(store, prefix)

    monkeypatch.setattr(Store, "folders", away)
    result = train(config(tmp_path / "run", **QUICK))
    assert result.summary["status"] == "finished"
    assert len(asked) > 3

"""The layerwise engine when the disk is full, a file is damaged, or a run before was killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from disturbed import Disturb

from ffpipe import Config, Interrupt, Interrupted, Result, RunFailed, UserError, override, recipe, resume, train
from ffpipe.config.fields import to_toml
from ffpipe.engines.layerwise.engine import LayerwiseEngine
from ffpipe.engines.layerwise.spool import Spool
from ffpipe.engines.layerwise.spoolfolder import PREFIX
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.packet import Arrays
from ffpipe.system.leftovers import OWNER, own_folder


def config(run_dir: Path, **fields: Any) -> Config:
    plain = {
        "training.epochs": 3,
        "training.dims": [64, 90, 70, 50],
        "execution.engine": "layerwise",
        "execution.chapter": 12,
        "execution.snapshot_steps": 20,
        "execution.back_off": 0,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits"), {**plain, **fields})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(config(tmp_path_factory.mktemp("run") / "run", **{"execution.engine": "local"}))


def engine_with(kind: type[Spool]) -> LayerwiseEngine:
    class Engine(LayerwiseEngine):
        spool = kind

    return Engine()


def spooled(run: Path, pattern: str) -> Path:
    return next(path for path in run.glob(f"ffpipe-spool-*/{pattern}") if path.stat().st_size)


@pytest.mark.parametrize("pattern", ["rows-1.arrow", "stage-001.parked", "stage-000.parked"])
def test_a_damaged_file_means_once_more_from_the_snapshot(pattern: str, undisturbed: Result, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def damage() -> None:
        path = spooled(run, pattern)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    view = Disturb(30, damage)
    result = train(config(run), view)
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert result.summary["recoveries"] == 1
    assert "altered" in result.summary["recovery_notes"][0]["reason"]
    assert not list(run.glob("ffpipe-spool-*"))


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_message_is_gone_when_the_next_one_comes(compression: str, tmp_path: Path) -> None:
    read: list[weakref.ref[Any]] = []  # which lives as long as any view of its tensor does

    class Watched(Spool):
        before: Sequence[weakref.ref[Any]] = ()

        def _read(self, batches: pa.RecordBatchFileReader, message: int) -> Arrays:
            assert all(old() is None for old in self.before)
            arrays = super()._read(batches, message)
            self.before = [weakref.ref(array.data) for array in arrays.values()]
            read.extend(self.before)
            return arrays

    fields = {"training.epochs": 1, "execution.spool_compression": compression}
    train(config(tmp_path / "run", **fields), engine=lambda _: engine_with(Watched))
    assert len(read) > 28
    assert all(old() is None for old in read)  # the last item, Stop, comes with none


def test_interrupted_and_resumed_by_another_engine(undisturbed: Result, tmp_path: Path) -> None:
    interrupt = Interrupt()
    with pytest.raises(Interrupted):
        train(config(tmp_path / "run"), Disturb(12, interrupt.request), interrupt)
    result = resume(tmp_path / "run", {"execution.engine": "local"})
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert result.test_error_goodness == undisturbed.test_error_goodness


def test_it_goes_on_with_what_another_engine_began(tmp_path: Path) -> None:
    constant = {"training.schedule": "constant"}
    whole = train(config(tmp_path / "whole", **constant))
    train(config(tmp_path / "run", **constant, **{"training.epochs": 1, "execution.engine": "local"}))
    changes = {"training.epochs": 3, "execution.engine": "layerwise", "execution.stages": 2}
    assert resume(tmp_path / "run", changes).weights_sha256 == whole.weights_sha256


def test_no_room_for_the_spool(tmp_path: Path) -> None:
    class Full(Spool):
        def write(self, message: int, arrays: Arrays) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(RunFailed, match=r"spool .*No space left on device.*--execution\.spool"):
        train(config(tmp_path / "run"), engine=lambda _: engine_with(Full))
    assert not list((tmp_path / "run").glob("ffpipe-spool-*"))


def test_a_spool_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"execution\.spool"):
        train(config(tmp_path / "run", **{"execution.spool": str(tmp_path / "file")}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{}, {"execution.spool": ""}])
def test_a_killed_run_leaves_a_spool_that_the_next_one_removes(
    changes: dict[str, str], undisturbed: Result, tmp_path: Path
) -> None:
    path, run = tmp_path / "config.toml", tmp_path / "run"
    path.write_text(to_toml(config(run, **{"execution.spool": str(tmp_path)})))
    process = subprocess.Popen([sys.executable, "-m", "ffpipe", "train", str(path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((run / "checkpoints").glob("*/manifest.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("ffpipe-spool-*"))
    assert resume(run, changes).weights_sha256 == undisturbed.weights_sha256
    assert not list(tmp_path.glob("ffpipe-spool-*"))


def test_what_a_killed_run_left_is_swept_before_the_room_is_measured(
    undisturbed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever left it: nobody else can be at work in a run whose lock is held."""
    run, interrupt = tmp_path / "run", Interrupt()
    with pytest.raises(Interrupted):
        train(config(run), Disturb(12, interrupt.request), interrupt)
    left = run / "ffpipe-spool-1-abc"
    left.mkdir()
    (left / OWNER).write_text("another host, on which that process may be alive")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000 if left.exists() else usage.free))
    assert resume(run).weights_sha256 == undisturbed.weights_sha256
    assert not left.exists()


def test_what_is_left_in_a_folder_for_spools_is_swept_before_a_new_run_measures_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f"{PREFIX}-{2**22 + 1}-abc"  # no process has this number
    left.mkdir()
    (left / OWNER).write_text((own_folder(tmp_path, "mine") / OWNER).read_text())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000 if left.exists() else usage.free))
    train(config(tmp_path / "run", **{"training.epochs": 1, "execution.spool": str(tmp_path)}))


@pytest.mark.parametrize("spool", ["run/spool", "other/and/deeper"])
def test_a_spool_in_a_folder_that_is_not_there_yet(spool: str, tmp_path: Path) -> None:
    """It is made with those above it, and they go with it; a run folder stays."""
    train(config(tmp_path / "run", **{"training.epochs": 1, "execution.spool": str(tmp_path / spool)}))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / spool).exists()


def test_what_is_refused_leaves_no_folder_for_its_spool(tmp_path: Path) -> None:
    store = tmp_path / "store" / "step-00000001"
    store.mkdir(parents=True)
    (store / "manifest.json").touch()
    fields = {"execution.spool": str(tmp_path / "spool"), "execution.checkpoints": str(store.parent)}
    with pytest.raises(UserError, match="snapshots of another run"):
        train(config(tmp_path / "run", **fields))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_spool_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"execution\.spool is 's3://bucket/spool', but .*: give the path of a folder"):
        train(config(tmp_path / "run", **{"execution.spool": "s3://bucket/spool"}))
    assert not list(tmp_path.iterdir())


def test_chapters_are_no_longer_than_the_disk_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
    fields = {"execution.chapter": 0, "training.negatives": "random"}
    job = make_job(config(tmp_path / "run", **fields))
    assert 1 <= LayerwiseEngine().layout(job).window < 30
    # A length that was given is kept, or refused.
    with pytest.raises(UserError, match=r"needs .*: give another place with --execution.spool or --execution.chapter"):
        LayerwiseEngine().layout(make_job(config(tmp_path / "run", **fields | {"execution.chapter": 200})))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"has 0 MiB free, but a chapter of 1 minibatches needs"):
        LayerwiseEngine().layout(job)


def test_chapters_are_no_longer_than_the_run(tmp_path: Path) -> None:
    """Else no disk would do for one that is."""
    fields = {"training.negatives": "random", "execution.chunk": 0}
    job = make_job(config(tmp_path / "run", **fields, **{"execution.chapter": 10**9}))
    layout = LayerwiseEngine().layout(job)
    assert job.steps < layout.window == layout.plan.longest_window < 10 * job.steps
    assert job.config.execution.chapter == 10**9


def test_room_is_left_for_snapshots_on_the_same_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3_000_000))
    fields = {"execution.chapter": 0, "training.negatives": "random", "execution.spool": str(tmp_path)}
    fields["execution.snapshot_seconds"] = 0

    def chapter(**more: Any) -> int:
        more = {f"execution.{name}": value for name, value in more.items()}
        return LayerwiseEngine().layout(make_job(config(tmp_path / "run", **fields, **more))).window

    elsewhere = chapter(checkpoints="s3://bucket/run?region=us-east-1")
    at_the_end, one_kept, four_kept = (
        chapter(snapshot_steps=steps, keep_snapshots=keep) for steps, keep in ((0, 9), (1000, 1), (20, 4))
    )
    assert elsewhere > at_the_end == one_kept > four_kept > 0
    with pytest.raises(UserError, match=r"with the snapshots that go to the same disk"):
        chapter(snapshot_steps=1, keep_snapshots=90)


def test_chunks_are_no_longer_than_chapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"training.negatives": "random", "execution.chunk": 64}
    with pytest.raises(UserError, match=r"execution\.chunk is 64, more than execution\.chapter 12: .* at most 12"):
        config(tmp_path / "run", **fields)
    local = config(tmp_path / "run", **fields, **{"execution.engine": "local"})
    with pytest.raises(UserError, match=r"more than execution\.chapter"):  # the budget may ask for the layerwise engine
        override(local, {"execution.memory_budget": "1GiB"})
    # One that was given is kept, or refused.
    fields["execution.chapter"] = 0
    assert LayerwiseEngine().layout(make_job(config(tmp_path / "run", **fields))).window == 256
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3_000_000))
    with pytest.raises(UserError, match=r"a chapter of 64 minibatches needs .* or --execution\.chunk [1-9]"):
        LayerwiseEngine().layout(make_job(config(tmp_path / "run", **fields)))
    fields |= {"execution.chunk": 300, "training.epochs": 20}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert LayerwiseEngine().layout(make_job(config(tmp_path / "run", **fields))).window == 300

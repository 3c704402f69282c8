"""Real processes are broken; the weights come out as if nothing had happened. test_drill.py has more of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from processes import stage_processes

from ffpipe import Config, Interrupt, Interrupted, Result, RunFailed, UserError, override, recipe, resume, train
from ffpipe.cli import main
from ffpipe.fields import to_toml
from ffpipe.pipeline.actor import RayLinks
from ffpipe.pipeline.inbox import Part
from ffpipe.pipeline.ray_engine import RayEngine
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.worker import AnyFeed, Parts, WorkerSetup, make_feed, make_stage
from ffpipe.store import Pieces, Store
from ffpipe.telemetry.report import StageReport
from ffpipe.telemetry.view import QuietView

STEPS = 28 * 60


def config(run_dir: Path, **fields: Any) -> Config:
    """Three layers, hard negatives, 1,680 steps, a snapshot every 50."""
    plain = {
        "training.epochs": 60,
        "training.dims": [64, 90, 70, 50],
        "execution.snapshot_steps": 50,
        "execution.evaluate_every": 7,
        "execution.stages": 3,
        "execution.back_off": 0.1,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits"), {**plain, **fields})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return train(config(folder, **{"execution.engine": "local"}))


def same(result: Result, undisturbed: Result) -> None:
    """Weights, errors and every row of metrics."""
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert result.test_error_goodness == undisturbed.test_error_goodness
    assert result.test_error_softmax == undisturbed.test_error_softmax
    assert result.summary["evaluations"] == undisturbed.summary["evaluations"]
    assert result.summary["status"] == "finished"
    assert result.summary["steps"] == STEPS
    metrics = [pq.read_table(run.run_dir / "metrics.parquet").to_pylist() for run in (result, undisturbed)]
    assert metrics[0] == metrics[1]


class Disturb(QuietView):
    """Does something to the run when it has come to a step."""

    def __init__(self, step: int, what: Callable[[], None]) -> None:
        self.step = step
        self.what = what
        self.done = False
        self.notes: list[str] = []

    def report(self, report: StageReport) -> None:
        if report.step >= self.step and not self.done:
            self.done = True
            self.what()

    def note(self, text: str) -> None:
        self.notes.append(text)


def signal_stage(index: int, number: int) -> Callable[[], None]:
    return lambda: os.kill(stage_processes()[index], number)


@pytest.mark.parametrize(("stages", "step"), [([1], 400), ([0, 2], 1)], ids=str)
@pytest.mark.usefixtures("cluster")
def test_stages_that_are_killed(stages: list[int], step: int, undisturbed: Result, tmp_path: Path) -> None:
    def kill() -> None:
        processes = stage_processes()
        for stage in stages:
            os.kill(processes[stage], signal.SIGKILL)

    view = Disturb(step, kill)
    result = train(config(tmp_path / "run"), view)
    assert view.done
    same(result, undisturbed)
    assert result.summary["recoveries"] >= 1
    assert any("going on after step" in note for note in view.notes)
    wait_until(lambda: stage_processes() == [])


@pytest.mark.usefixtures("cluster")
def test_a_stage_that_stops_answering(undisturbed: Result, tmp_path: Path) -> None:
    view = Disturb(1, signal_stage(1, signal.SIGSTOP))
    result = train(config(tmp_path / "run", **{"execution.stage_timeout": 3}), view)
    same(result, undisturbed)
    assert result.summary["recoveries"] == 1
    assert "did not answer for 3 s" in result.summary["recovery_notes"][0]["reason"]
    wait_until(lambda: stage_processes() == [])


@pytest.mark.usefixtures("cluster")
def test_a_message_that_nobody_gets(undisturbed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = tmp_path / "lost"

    def make_lossy(setup: WorkerSetup, saver: Saver) -> Stage:
        """Within a test, so that it travels to the stage's process as it is."""
        push = RayLinks.to_next

        def to_next(links: RayLinks, sequence: int, part: Part) -> None:
            if sequence == 30 and setup.spec.index == 1 and not lost.exists():
                lost.touch()
            else:
                push(links, sequence, part)

        setattr(RayLinks, "to_next", to_next)  # noqa: B010  (mypy takes no assignment to a method)
        return make_stage(setup, saver)

    monkeypatch.setattr("ffpipe.run.make_engine", lambda execution: RayEngine(Parts(stage=make_lossy)))
    result = train(config(tmp_path / "run", **{"execution.stage_timeout": 3}))
    assert lost.exists()
    same(result, undisturbed)
    assert "a message was lost" in result.summary["recovery_notes"][0]["reason"]


@pytest.mark.usefixtures("cluster")
def test_attempts_run_out(tmp_path: Path) -> None:
    view = Disturb(1, signal_stage(0, signal.SIGKILL))
    with pytest.raises(RunFailed, match=r"stage \d .*execution\.attempts is 0"):
        train(config(tmp_path / "run", **{"execution.attempts": 0, "execution.snapshot_steps": 0}), view)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    wait_until(lambda: stage_processes() == [])


@pytest.mark.parametrize("engine", ["ray", "local"])
@pytest.mark.usefixtures("cluster")
def test_an_interrupt_saves_and_another_engine_goes_on(engine: str, undisturbed: Result, tmp_path: Path) -> None:
    interrupt = Interrupt()
    view = Disturb(100, interrupt.request)
    with pytest.raises(Interrupted, match=f"ffpipe resume {tmp_path / 'run'}"):
        train(config(tmp_path / "run", **{"execution.engine": engine}), view, interrupt)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 100 <= summary["steps"] < STEPS
    assert summary["test_error_goodness"] is None
    other = {"ray": "local", "local": "ray"}[engine]
    same(resume(tmp_path / "run", {"execution.engine": other, "execution.stages": 2}), undisturbed)


def test_an_interrupt_while_the_stages_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = Interrupt()

    def interrupted(setup: WorkerSetup) -> AnyFeed:
        interrupt.request()
        return make_feed(setup)

    monkeypatch.setattr("ffpipe.pipeline.local.make_feed", interrupted)
    with pytest.raises(Interrupted, match="saved after step 0"):
        train(config(tmp_path / "run", **{"execution.engine": "local"}), interrupt=interrupt)


def test_a_second_interrupt_does_not_wait() -> None:
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt.request()
    told = threading.Event()
    interrupt = Interrupt()
    interrupt.goes_to(told.set)
    interrupt.request()
    assert told.is_set()
    with pytest.raises(KeyboardInterrupt):
        interrupt.request()


def interrupted_run(folder: Path) -> Path:
    """A local run that stopped at about half its way."""
    interrupt = Interrupt()
    fields = {"execution.engine": "local", "execution.stages": 1}
    with pytest.raises(Interrupted):
        train(config(folder / "run", **fields), Disturb(300, interrupt.request), interrupt)
    return folder / "run"


@pytest.mark.parametrize("harm", ["flip", "cut", "absent"])
def test_a_damaged_snapshot_is_named_and_the_one_before_is_used(harm: str, undisturbed: Result, tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    path = max(run.glob("checkpoints/*/layer-001.safetensors"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.unlink()
    if harm != "absent":
        path.write_bytes(data if harm == "flip" else data[: len(data) // 3])
    view = Disturb(STEPS + 1, lambda: None)
    same(resume(run, view=view), undisturbed)
    assert str(path) in view.notes[0]
    assert "trying the snapshot before it" in view.notes[0]


def test_without_a_whole_snapshot_it_begins_again(undisturbed: Result, tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    shutil.rmtree(run / "checkpoints")
    same(resume(run), undisturbed)


def test_more_epochs(tmp_path: Path) -> None:
    fields = {"execution.engine": "local", "training.schedule": "constant"}
    long = train(config(tmp_path / "long", **fields, **{"training.epochs": 4}))
    train(config(tmp_path / "short", **fields, **{"training.epochs": 2}))
    assert resume(tmp_path / "short", {"training.epochs": 4}).weights_sha256 == long.weights_sha256
    with pytest.raises(UserError, match="past the end of 3 epochs"):
        resume(tmp_path / "short", {"training.epochs": 3})
    with pytest.raises(UserError, match=r"only training\.epochs"):
        resume(tmp_path / "short", {"training.seed": 3})


def test_a_finished_run_is_tested_again_and_stays_what_it_is(tmp_path: Path) -> None:
    first = train(config(tmp_path / "run", **{"execution.engine": "local", "training.epochs": 2}))
    again = resume(tmp_path / "run")
    assert again.weights_sha256 == first.weights_sha256
    assert again.test_error_goodness == first.test_error_goodness


def test_two_trainers_cannot_have_one_run(tmp_path: Path) -> None:
    refused: list[str] = []

    def another() -> None:
        try:
            resume(tmp_path / "run")
        except UserError as error:
            refused.append(str(error))

    train(config(tmp_path / "run", **{"execution.engine": "local"}), Disturb(100, another))
    assert len(refused) == 1
    assert "another process is training" in refused[0]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_snapshot_before(tmp_path: Path) -> None:
    good = train(config(tmp_path / "run", **{"execution.engine": "local", "training.epochs": 2}))
    text = (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run" / "config.toml").write_text(text.replace("learning_rate = 0.01", "learning_rate = 1e30"))
    with pytest.raises(
        RunFailed, match=r"the loss of layer 0 is (nan|inf) at step \d+: .*after step 56 is in .*resume"
    ):
        resume(tmp_path / "run", {"training.epochs": 4})
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "step-00000056" / "manifest.json").read_text())
    assert manifest["weights_sha256"] == good.weights_sha256


class FullDisk:
    """A store on which there is no room between two points of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: Callable[[str], bool]) -> None:
        write = Store.write

        def maybe(store: Store, name: str, data: Pieces) -> None:
            if full(name):
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
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
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


def test_snapshots_by_the_clock(undisturbed: Result, tmp_path: Path) -> None:
    fields = {"execution.engine": "local", "execution.snapshot_steps": 0, "execution.snapshot_seconds": 0.2}
    result = train(config(tmp_path / "run", **fields, **{"execution.keep_snapshots": 100}))
    same(result, undisturbed)
    assert len(list((tmp_path / "run" / "checkpoints").glob("*/manifest.json"))) > 2


def test_checkpoints_elsewhere(undisturbed: Result, tmp_path: Path) -> None:
    place = (tmp_path / "elsewhere").as_uri()
    asked = config(tmp_path / "run", **{"execution.engine": "local", "execution.checkpoints": place})
    same(train(asked), undisturbed)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert len(list((tmp_path / "elsewhere").glob("*/manifest.json"))) == asked.execution.keep_snapshots
    with pytest.raises(UserError, match="holds the snapshots of another run"):
        train(config(tmp_path / "other", **{"execution.engine": "local", "execution.checkpoints": place}))
    assert not (tmp_path / "other").exists()
    same(resume(tmp_path / "run"), undisturbed)


def test_resume_from_the_shell(undisturbed: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = interrupted_run(tmp_path)
    assert main(["resume", str(run), "--engine", "local", "--stages", "3"]) == 0
    assert json.loads((run / "summary.json").read_text())["weights_sha256"] == undisturbed.weights_sha256
    for arguments, says in ((["resume", str(tmp_path)], "is no run"), (["resume", str(run), "--seed", "3"], "--seed")):
        capsys.readouterr()
        assert main(arguments) == 2
        assert says in capsys.readouterr().err


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_snapshot_of_a_run_is_the_state_of_its_step(undisturbed: Result, tmp_path: Path) -> None:
    """A run that ends at step 400 has the weights that the snapshot of step 400 has in a longer one."""
    keep = {"execution.engine": "local", "execution.keep_snapshots": 100}
    long = train(config(tmp_path / "long", **keep))
    assert long.weights_sha256 == undisturbed.weights_sha256
    digests = {
        path.parent.name: json.loads(path.read_text())["weights_sha256"]
        for path in (tmp_path / "long" / "checkpoints").glob("*/manifest.json")
    }
    assert len(set(digests.values())) == len(digests) == STEPS // 50 + 1
    asked = replace(config(tmp_path / "again", **keep))
    again = train(replace(asked, execution=replace(asked.execution, stages=2, chunk=3)))
    other = {
        path.parent.name: json.loads(path.read_text())["weights_sha256"]
        for path in (again.run_dir / "checkpoints").glob("*/manifest.json")
    }
    assert other == digests

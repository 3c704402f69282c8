"""A run goes on from its snapshots, whatever has become of them or of the disk, to the same weights."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from covering import only
from disturbed import QUICK, STEPS, Disturb, GivenStore, config, files_in, own_data, reports_each_step, resume_in, same
from kinds_of_blocks import network

from ffpipe import Interrupt, Interrupted, Result, RunFailed, UserError, override, recipe, resume, train
from ffpipe.commands.cli import main
from ffpipe.pipeline.job import make_job
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.resumed import other_rates
from ffpipe.runs.view import ConsoleView
from ffpipe.storage.store import Store
from ffpipe.system.errors import Unreachable


def interrupted_run(folder: Path) -> Path:
    """Make a local run that stopped at about half its way."""
    interrupt = Interrupt()
    fields = {"execution.engine": "local", "execution.stages": 1}
    with pytest.raises(Interrupted):
        train(
            config(folder / "run", **fields),
            Disturb(90, interrupt.request),
            interrupt,
            engine=reports_each_step,
        )
    return folder / "run"


@pytest.mark.parametrize("harm", only(["flip"], ["flip", "cut", "absent"]))
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


def test_what_was_measured_in_training_stays_where_nothing_is_trained(tmp_path: Path) -> None:
    run = train(config(tmp_path / "run", **QUICK, **{"execution.trace": True}))
    trace = (run.run_dir / "trace.json").read_bytes()
    assert b"compute Train" in trace
    again = resume(run.run_dir, {"execution.stages": 3})
    assert (run.run_dir / "trace.json").read_bytes() == trace
    assert again.summary | {"written_at": 0} == run.summary | {"written_at": 0}
    assert json.loads((run.run_dir / "summary.json").read_text())["time_shares"] == run.summary["time_shares"]
    longer = resume(run.run_dir, {"training.epochs": 3})
    assert longer.summary["stages"] == 3
    assert longer.summary["time_shares"] != run.summary["time_shares"]
    assert (run.run_dir / "trace.json").read_bytes() != trace


def test_milestones_are_where_they_were_in_a_longer_run(tmp_path: Path) -> None:
    fields = {**QUICK, "training.schedule": "steps", "training.milestones": [1, 3], "training.dims": [64, 30, 20]}
    long = train(config(tmp_path / "long", **fields | {"training.epochs": 4}))
    train(config(tmp_path / "short", **fields))
    assert resume(tmp_path / "short", {"training.epochs": 4}).weights_sha256 == long.weights_sha256


BLOCK = {"kind": "dense", "options": {"width": 20}, "schedule": "onecycle"}
# The recipe has three blocks, from the second of which it is read, on two stages.
ONE_BLOCK = {"training.goodness_from": 0, "training.head_from": 0, "execution.stages": 1}


@pytest.mark.parametrize(
    ("fields", "epochs", "longer", "other"),
    [
        ({"training.schedule": "hinton"}, 2, 3, "hinton"),
        ({"training.schedule": "hinton"}, 3, 2, "hinton"),
        ({"training.schedule": "hinton"}, 4, 8, ""),  # which has not begun to fall after two epochs
        ({"training.schedule": "ff-py"}, 2, 9, ""),  # nor has this one
        ({"training.schedule": "cosine"}, 8, 9, "cosine"),
        ({"training.schedule": "onecycle"}, 8, 9, "onecycle"),
        ({"training.schedule": "constant"}, 2, 9, ""),
        ({"training.schedule": "steps", "training.milestones": [1]}, 2, 9, ""),
        ({"training.schedule": "constant", "training.blocks": [BLOCK]}, 2, 9, "onecycle"),
        ({"training.schedule": "cosine", "training.blocks": [BLOCK]}, 2, 9, "cosine, onecycle"),
        ({"training.schedule": "constant", "training.blocks": [BLOCK | {"last_epoch": 2}]}, 2, 9, ""),
    ],
)
def test_a_schedule_that_other_epochs_change_is_named(
    fields: dict[str, Any], epochs: int, longer: int, other: str
) -> None:
    job = make_job(override(recipe("digits"), {**ONE_BLOCK, **fields, "training.epochs": longer}))
    says = (
        f"schedule {other}: rates are those of {longer} epochs from here on and were those of {epochs} before, so the "
        f"result is not that of {longer} epochs from the start"
    )
    assert other_rates(job, epochs, 2 * job.steps_per_epoch) == ((says,) if other else ())
    assert other_rates(job, longer, 2 * job.steps_per_epoch) == other_rates(job, epochs, 0) == ()


def test_other_data_are_refused_and_the_same_ones_written_again_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "data.npz", tmp_path / "run"
    plain = own_data(file, 1) | {"execution.engine": "local", "training.epochs": 1}
    first = train(config(run, **plain))
    kept = files_in(run)
    own_data(file, 2)
    says = "training.data: what npz gives now is not what the run began with"
    refused(["resume", str(run), "--epochs", "2"], says, capsys)
    assert files_in(run) == kept
    own_data(file, 1)  # the same once more, of another time
    assert resume(run, {"training.epochs": 2}).summary["steps"] == 2 * first.summary["steps"]


def evaluations(run: Path) -> list[tuple[int, str]]:
    """Read steps and splits of the evaluations of a run."""
    return [(each["step"], each["split"]) for each in json.loads((run / "summary.json").read_text())["evaluations"]]


@pytest.mark.parametrize("engine", ["local", "layerwise"])
def test_no_evaluation_is_made_twice(engine: str, tmp_path: Path) -> None:
    fields = {"execution.engine": engine, "training.epochs": 2, "execution.evaluate_every": 1}
    first, run = train(config(tmp_path / "run", **fields)), tmp_path / "run"
    made = evaluations(run)
    half, end = first.summary["steps"] // 2, first.summary["steps"]
    assert made == [(half, "validation"), (end, "validation"), (end, "test")]
    view = Disturb(STEPS, lambda: None)
    again = resume(run, view=view)
    assert again.weights_sha256 == first.weights_sha256
    assert again.test_errors == first.test_errors
    assert evaluations(run) == made
    resume(run, {"training.epochs": 3})
    assert evaluations(run) == [*made, (end + half, "validation"), (end + half, "test")]


def test_an_evaluation_that_was_not_made_is_made_where_a_run_goes_on(tmp_path: Path) -> None:
    fields = {"execution.engine": "local", "training.epochs": 2, "execution.evaluate_every": 1}
    first, run = train(config(tmp_path / "run", **fields)), tmp_path / "run"
    made = evaluations(run)
    past = json.loads((run / "past.json").read_text())
    past["evaluations"] = past["evaluations"][:-1]  # as where it was killed between the last snapshot and the test
    (run / "past.json").write_text(json.dumps(past))
    assert resume(run).test_errors == first.test_errors
    assert evaluations(run) == made


def test_two_trainers_cannot_have_one_run(tmp_path: Path) -> None:
    refused: list[str] = []

    def another() -> None:
        try:
            resume(tmp_path / "run")
        except UserError as error:
            refused.append(str(error))

    asked = config(tmp_path / "run", **{"execution.engine": "local"})
    train(asked, Disturb(100, another), engine=reports_each_step)
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


def test_a_run_that_diverges_keeps_what_it_has_behind_it(tmp_path: Path) -> None:
    """Though a row of metrics ends with the loss that is not finite."""
    fields = {"execution.engine": "local", "execution.log_steps": 1, "execution.chunk": 8, "training.epochs": 2}
    train(config(tmp_path / "run", **fields))
    text = (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run" / "config.toml").write_text(text.replace("learning_rate = 0.01", "learning_rate = 1e30"))
    with pytest.raises(RunFailed, match=r"the loss of layer 0 is (nan|inf)"):
        resume(tmp_path / "run", {"training.epochs": 4})
    rows = RunFolder(tmp_path / "run").read_past().rows
    assert {row.step for row in rows} >= set(range(1, 57))
    assert all(math.isfinite(row.loss) for row in rows)


def test_snapshots_by_the_clock(undisturbed: Result, tmp_path: Path) -> None:
    fields = {"execution.engine": "local", "execution.snapshot_steps": 0, "execution.snapshot_seconds": 0.1}
    result = train(config(tmp_path / "run", **fields, **{"execution.keep_snapshots": 100}))
    same(result, undisturbed)
    assert len(list((tmp_path / "run" / "checkpoints").glob("*/manifest.json"))) > 2


def test_what_a_run_has_behind_it_is_not_lost_where_it_cannot_be_read_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(tmp_path / "run", **QUICK))
    before, opened = files_in(tmp_path / "run"), Path.open

    def away(path: Path, *rest: Any, **named: Any) -> Any:
        if path.name == "past.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return opened(path, *rest, **named)

    monkeypatch.setattr(Path, "open", away)
    assert main(["resume", str(tmp_path / "run"), "--epochs", "3"]) == 2
    assert "past.json: Input/output error" in capsys.readouterr().err
    monkeypatch.undo()
    assert files_in(tmp_path / "run") == before


@pytest.mark.parametrize("engine", ["local", "layerwise"])
def test_data_that_change_under_a_run_do_not_change_it(engine: str, tmp_path: Path) -> None:
    """A recovery goes on with what the run began with."""
    file = tmp_path / "data.npz"
    plain = QUICK | own_data(file, 1) | {"execution.engine": engine}
    plain |= {"execution.snapshot_steps": 3, "execution.back_off": 0.01}
    first = train(config(tmp_path / "undisturbed", **plain))

    def fail() -> None:
        own_data(file, 2)
        raise RuntimeError("no more")

    again = train(
        config(tmp_path / "run", **plain), Disturb(7, fail), engine=reports_each_step if engine == "local" else None
    )
    assert again.summary["recoveries"] == 1
    assert again.weights_sha256 == first.weights_sha256


@pytest.mark.parametrize("engine", ["local", pytest.param("layerwise", marks=pytest.mark.long)])
def test_a_block_goes_on_that_has_not_learned_yet(engine: str, tmp_path: Path) -> None:
    """The last one learns from epoch 1 on: its optimiser has no state in the snapshots of epoch 0."""
    fields = {"execution.engine": engine, "execution.snapshot_steps": 3, "execution.back_off": 0.01}
    fields["execution.chapter"] = 6
    asked = override(network("conv, batch norm, dropout", tmp_path), {**fields, "execution.keep_snapshots": 99})
    first = train(override(asked, {"execution.run_dir": str(tmp_path / "undisturbed")}))

    def fail() -> None:
        raise RuntimeError("no more")

    run = override(asked, {"execution.run_dir": str(tmp_path / "run")})
    make = reports_each_step if engine == "local" else None
    again = train(run, Disturb(9, fail), engine=make)
    assert again.summary["recoveries"] == 1
    assert 0 < again.summary["recovery_notes"][0]["from_step"] < 14
    assert again.weights_sha256 == first.weights_sha256


@pytest.mark.parametrize("engine", [pytest.param("local", marks=pytest.mark.long), "layerwise"])
def test_a_stage_that_cannot_read_its_snapshot_any_more_begins_again(engine: str, tmp_path: Path) -> None:
    asked = {**QUICK, "execution.engine": engine, "execution.back_off": 0.01}
    first = train(config(tmp_path / "run", **asked))
    read: list[str] = []

    class Away(Store):
        def read(self, name: str, most: int) -> bytes:
            if name.endswith("layer-000.safetensors"):
                read.append(name)
                if 2 <= len(read) <= 2 + len(self.pauses):  # the stage's turn, after the driver's, each time it tries
                    raise Unreachable("the disk is away")
            return super().read(name, most)

    again = resume_in(GivenStore(tmp_path / "run", Away), {"training.epochs": 3})
    (note,) = again.summary["recovery_notes"]
    assert (note["reason"], note["from_step"]) == ("a stage failed: the disk is away", first.summary["steps"])


def test_resume_from_the_shell(undisturbed: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = interrupted_run(tmp_path)
    assert main(["resume", str(run), "--engine", "local", "--stages", "3"]) == 0
    assert json.loads((run / "summary.json").read_text())["weights_sha256"] == undisturbed.weights_sha256
    refused(["resume", str(tmp_path)], "is not a run", capsys)
    refused(["resume", str(run), "--seed", "3"], "--seed", capsys)


def test_a_run_says_where_it_goes_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(train(config(tmp_path / "run", **QUICK)).run_dir)
    capsys.readouterr()
    assert main(["resume", run]) == 0
    out = capsys.readouterr().out
    assert "the run is at its end, step 56 of 56" in out
    assert not re.search("schedule|are few", out)
    assert main(["resume", run, "--epochs", "3"]) == 0
    out = capsys.readouterr().out
    assert "the run goes on from step 56 of 84" in out
    assert "\nschedule hinton: rates are those of 3 epochs from here on and were those of 2 before" in out
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert main(["resume", run]) == 0
    assert "the run begins again at step 0: no snapshot can be used" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["local", "layerwise"])
def test_progress_begins_at_the_step_that_a_run_goes_on_from(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(train(config(tmp_path / "run", **QUICK)).run_dir)
    monkeypatch.setattr(ConsoleView, "SECONDS", 0.0)
    assert main(["resume", run, "--epochs", "3", "--engine", engine, "--stages", "2"]) == 0
    steps = re.findall(r"^epoch \d/3  step (\d+)/84", capsys.readouterr().out, re.MULTILINE)
    assert min(map(int, steps)) >= 56


def test_name_and_folder_of_a_run_stay(tmp_path: Path) -> None:
    run = train(config(tmp_path / "run", **QUICK)).run_dir
    for changes in ({"recipe": "mnist"}, {"execution.run_dir": str(tmp_path / "other"), "training.epochs": 3}):
        with pytest.raises(UserError, match=r"is not to be changed: a run goes on in its own folder"):
            resume(run, changes)


def digests_of(run: Path) -> dict[str, str]:
    """Read the digest of each snapshot."""
    manifests = (run / "checkpoints").glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in manifests}


def test_the_snapshot_of_a_run_is_the_state_of_its_step(undisturbed: Result, tmp_path: Path) -> None:
    """Two stages and other chunks make the snapshots of one, step by step."""
    keep = {"execution.engine": "local", "execution.keep_snapshots": 100}
    long = train(config(tmp_path / "long", **keep))
    assert long.weights_sha256 == undisturbed.weights_sha256
    digests = digests_of(long.run_dir)
    assert len(set(digests.values())) == len(digests) == STEPS // 20 + 1
    asked = replace(config(tmp_path / "again", **keep))
    again = train(replace(asked, execution=replace(asked.execution, stages=2, chunk=3)))
    assert digests_of(again.run_dir) == digests

"""The owners of snapshots in a place: a run's own, wherever that is, and those of another run or network."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from disturbed import QUICK, Disturb, GivenStore, config, files_in, same, train_in

from ffpipe import Result, RunFailed, UserError, resume, train
from ffpipe.config.fields import to_toml
from ffpipe.runs.folder import RunFolder
from ffpipe.storage.store import Pieces, Store


def test_checkpoints_elsewhere(undisturbed: Result, tmp_path: Path) -> None:
    place = (tmp_path / "elsewhere").as_uri()
    asked = config(tmp_path / "run", **{"execution.engine": "local", "execution.checkpoints": place})
    same(train(asked), undisturbed)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert len(list((tmp_path / "elsewhere").glob("*/manifest.json"))) == asked.execution.keep_snapshots
    with pytest.raises(UserError, match="is for the snapshots of another run"):
        train(config(tmp_path / "other", **{"execution.engine": "local", "execution.checkpoints": place}))
    assert not (tmp_path / "other").exists()
    same(resume(tmp_path / "run"), undisturbed)


def test_another_run_s_snapshots_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused whether they would fit or not, and before either run has made one."""
    mine, other = tmp_path / "a", str(tmp_path / "b" / "checkpoints")
    train(config(mine, **QUICK))
    train(config(tmp_path / "b", **QUICK, **{"training.seed": 4}))
    train(config(tmp_path / "c", **QUICK, **{"training.dims": [64, 20, 10]}))
    before = files_in(tmp_path / "b")
    for run in (mine, tmp_path / "c"):
        kept = files_in(run)
        command = ["resume", str(run), "--execution.checkpoints", other]
        refused(command, f"{other} is for the snapshots of another run", capsys)
        assert files_in(run) == kept
    (tmp_path / "claimed").mkdir()
    (tmp_path / "claimed" / "run").write_text("0" * 32)
    with pytest.raises(UserError, match="is for the snapshots of another run"):
        train(config(tmp_path / "d", **QUICK, **{"execution.checkpoints": str(tmp_path / "claimed")}))
    assert not (tmp_path / "d").exists()
    text = (mine / "config.toml").read_text()
    (mine / "config.toml").write_text(text.replace('checkpoints = ""', f'checkpoints = "{other}"'))
    np.save(tmp_path / "image.npy", np.zeros((8, 8), dtype=np.float32))
    for command in (["evaluate", str(mine)], ["predict", str(mine), str(tmp_path / "image.npy")]):
        refused(command, "is for the snapshots of another run", capsys)
    assert files_in(tmp_path / "b") == before


def test_an_interrupt_right_after_the_claim_leaves_the_place_free(tmp_path: Path) -> None:
    class Interrupted(Store):
        """Snapshots of a run that Ctrl-C ends when it has written whose they are."""

        def write(self, name: str, pieces: Pieces) -> None:
            super().write(name, pieces)
            raise KeyboardInterrupt

    place = {"execution.checkpoints": str(tmp_path / "elsewhere")}
    asked = config(tmp_path / "run", **QUICK, **place)
    with pytest.raises(KeyboardInterrupt):
        train_in(GivenStore(tmp_path / "run", Interrupted), asked)
    assert list(tmp_path.iterdir()) == []
    train_in(RunFolder(tmp_path / "run"), asked)


def test_snapshots_that_were_moved_are_the_run_s_own(tmp_path: Path) -> None:
    first = train(config(tmp_path / "run", **QUICK))
    shutil.move(tmp_path / "run" / "checkpoints", tmp_path / "moved")
    shutil.move(tmp_path / "run", tmp_path / "there")
    again = resume(tmp_path / "there", {"execution.checkpoints": str(tmp_path / "moved")})
    assert again.weights_sha256 == first.weights_sha256


def test_a_place_without_the_run_s_snapshots_does_not_begin_it_anew(tmp_path: Path) -> None:
    """As where a disk is not mounted: what was saved is elsewhere, and is not lost."""
    run = tmp_path / "run"
    train(config(run, **QUICK))
    before = files_in(run)
    with pytest.raises(UserError, match=r"other has no snapshot of run .*run, which has saved step 56: give"):
        resume(run, {"execution.checkpoints": str(tmp_path / "other"), "training.epochs": 3})
    assert not (tmp_path / "other").exists()
    assert files_in(run) == before
    shutil.rmtree(run / "checkpoints")
    assert resume(run, {"training.epochs": 3}).summary["steps"] == 84  # its own folder: they are lost


def test_a_snapshot_that_the_run_does_not_know_is_said(tmp_path: Path) -> None:
    """As where a copy of the run folder has gone on, with the same place for its snapshots."""
    run, copy = tmp_path / "run", tmp_path / "copy"
    place = {"execution.checkpoints": str(tmp_path / "place")}
    train(config(run, **QUICK, **place))
    shutil.copytree(run, copy)
    resume(copy, {"training.epochs": 3, **place})
    view = Disturb(1000, lambda: None)
    resume(run, {"training.epochs": 4}, view)
    assert any("knows the run up to step 56 only: metrics and evaluations from there" in note for note in view.notes)
    view = Disturb(1000, lambda: None)
    resume(run, {"training.epochs": 5}, view)
    assert not any("knows the run" in note for note in view.notes)


OTHER_NETWORKS: dict[str, tuple[dict[str, object], str]] = {
    "wider": (
        {"training.dims": [64, 130, 70, 50]},
        "'weight' is torch.float32 (74, 90), expected torch.float32 (74, 130)",
    ),
    "narrower": (
        {"training.dims": [64, 33, 30, 20]},
        "'weight' is torch.float32 (74, 90), expected torch.float32 (74, 33)",
    ),
    "deeper": ({"training.dims": [64, 90, 70, 50, 40]}, "lacks layer-003.safetensors"),
    "less deep": ({"training.dims": [64, 90, 70]}, "has layer-002.safetensors"),
    "of blocks": (
        {"training.blocks": [{"kind": "dense", "options": {"width": width}} for width in (90, 70, 50)]},
        "lacks the tensor 'body.1.bias'",
    ),
    "without a head": ({"training.head": False, "training.negatives": "random"}, "has head.safetensors"),
}


@pytest.mark.parametrize("kind", OTHER_NETWORKS)
def test_whole_snapshots_of_another_network_are_not_taken_for_damage(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, says = OTHER_NETWORKS[kind]
    run = tmp_path / "run"
    train(config(run, **QUICK))
    (run / "config.toml").write_text(to_toml(config(run, **QUICK, **fields)))
    before = files_in(run)
    refused(["resume", str(run)], says, capsys)
    assert files_in(run) == before


def test_a_run_that_saved_nothing_gives_its_place_back(tmp_path: Path) -> None:
    place = {"execution.checkpoints": str(tmp_path / "place")}
    with pytest.raises(RunFailed, match="there is no snapshot to go on from"):
        train(config(tmp_path / "wild", **QUICK, **place, **{"training.optimizer.learning_rate": 1e30}))
    assert not (tmp_path / "place").exists()
    train(config(tmp_path / "run", **QUICK, **place))


@pytest.mark.parametrize("engine", ["local", "layerwise"])
def test_a_place_that_takes_no_snapshots_is_refused_before_training(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "checkpoints")
    asked = config(tmp_path / "run", **QUICK | {"execution.engine": engine}, **{"execution.checkpoints": place})
    (tmp_path / "asked.toml").write_text(to_toml(asked))
    refused(["train", str(tmp_path / "asked.toml")], place, capsys)
    assert not (tmp_path / "run").exists()

"""The yardstick is a run like any other: it is resumed, evaluated, exported, interrupted and refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused
from end_to_end import config, evaluations, of_blocks, summary_of
from safetensors.torch import load_file
from torch import Tensor

from ffpipe import (
    Interrupt,
    Interrupted,
    RunFailed,
    UserError,
    evaluate,
    export,
    load,
    override,
    predict,
    recipe,
    resume,
    train,
)
from ffpipe.commands.cli import main
from ffpipe.config.fields import read_config
from ffpipe.data.splits import load_splits
from ffpipe.learn.block import Step
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.objectives import Learned
from ffpipe.learn.spec import RowLayout


def act_at(step: int, action: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Have something happen when a step of the run begins."""
    learn = LocalBlock.learn

    def acting(self: LocalBlock, x: Tensor, layout: RowLayout, labels: Tensor | None, at: Step, *rest: Any) -> Learned:
        if at.index == step:
            action()
        return learn(self, x, layout, labels, at, *rest)

    patch.setattr(LocalBlock, "learn", acting)


@pytest.mark.long
def test_its_config_begins_it_again_whatever_was_asked_for_of_stages(tmp_path: Path) -> None:
    fields = {"execution.stages": 2, "execution.cpus": [1, 1], "execution.labels": {"zone": ["a", "b"]}}
    first = train(config(tmp_path / "a", **{"training.epochs": 2, **fields}))
    kept = override(read_config(tmp_path / "a" / "config.toml"), {"execution.run_dir": str(tmp_path / "b")})
    assert train(kept).weights_sha256 == first.weights_sha256
    devices = {"execution.stages": 2, "execution.device": ["cpu", "cpu"]}
    again = train(config(tmp_path / "c", **{"training.epochs": 2, **devices}))
    assert again.weights_sha256 == first.weights_sha256


def test_the_engine_within_a_budget_does_not_matter(tmp_path: Path) -> None:
    some = {"training.epochs": 2, "training.dims": [64, 40, 30]}
    plain = train(config(tmp_path / "plain", **some))
    held = train(config(tmp_path / "held", **some, **{"execution.memory_budget": "2GiB", "execution.trace": True}))
    assert held.weights_sha256 == plain.weights_sha256
    assert (tmp_path / "held" / "trace.json").is_file()


def test_a_run_goes_on_from_its_snapshots_to_the_same_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within an epoch; then from a snapshot whose successors are gone."""
    whole = train(of_blocks(tmp_path / "whole"))
    interrupt = Interrupt()
    often = {"execution.snapshot_steps": 10, "execution.keep_snapshots": 9}
    with monkeypatch.context() as patch:
        act_at(15, interrupt.request, patch)
        with pytest.raises(Interrupted, match=r"saved after step \d+; go on with: ffpipe resume"):
            train(override(of_blocks(tmp_path / "run"), often), interrupt=interrupt)
    summary = summary_of(tmp_path / "run")
    assert summary["status"] == "interrupted"
    assert 15 < summary["steps"] < 28
    assert resume(tmp_path / "run").weights_sha256 == whole.weights_sha256
    snapshots = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(snapshots) > 4
    for later in snapshots[2:]:
        shutil.rmtree(later)
    again = resume(tmp_path / "run")
    assert again.weights_sha256 == whole.weights_sha256
    assert evaluations(again) == evaluations(whole)


def test_a_split_without_examples_has_no_error(tmp_path: Path) -> None:
    fields = {"training.data.validation": 0, "execution.evaluate_every": 0, "training.epochs": 1}
    result = train(config(tmp_path / "run", **fields))
    assert [split for _, split, _ in evaluations(result)] == ["test"]
    with pytest.raises(UserError, match=r"the validation split of run .* is empty"):
        evaluate(tmp_path / "run", "validation")


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--backprop", "--epochs", "1", "--run-dir", run]) == 0
    assert "digits: end-to-end 500, 1,400 training examples" in capsys.readouterr().out
    summary = (tmp_path / "run" / "summary.json").read_bytes()
    error = evaluations_of(summary)[-1]["errors"]["last"]
    refused(["train", "digits", "--backprop", "--run-dir", run], "exists", capsys)
    assert (tmp_path / "run" / "summary.json").read_bytes() == summary

    assert main(["evaluate", run]) == 0
    assert f"test error: {error:.2%} by last (300 examples)" in capsys.readouterr().out
    assert main(["export", run, str(tmp_path / "a.safetensors")]) == 0
    np.save(tmp_path / "image.npy", np.zeros((8, 8), dtype=np.float32))
    assert main(["predict", run, str(tmp_path / "image.npy")]) == 0
    assert re.search(r"image.npy: \d$", capsys.readouterr().out.strip())
    assert main(["plan", str(tmp_path / "run" / "config.toml")]) == 0
    assert "largest process" in capsys.readouterr().out
    assert main(["resume", run, "--epochs", "2"]) == 0
    assert summary_of(tmp_path / "run")["steps"] == 2 * 28
    refused(["resume", run, "--stages", "2"], "execution.stages is 2", capsys)


def evaluations_of(summary: bytes) -> list[dict[str, Any]]:
    return list(json.loads(summary)["evaluations"])


def test_a_finished_run_is_evaluated_loaded_and_exported(tmp_path: Path) -> None:
    result = train(of_blocks(tmp_path / "run"))
    errors = evaluate(tmp_path / "run")
    assert (errors.goodness, errors.softmax, errors.others) == (None, None, result.test_errors)
    network, test = load(tmp_path / "run"), load_splits(recipe("digits").training.data).test
    images = torch.from_numpy(test.images(np.arange(5)))
    np.save(tmp_path / "image.npy", images[3].view(8, 8).numpy())
    (prediction,) = predict(tmp_path / "run", [tmp_path / "image.npy"])
    scores = network(images[3:4])[0]
    assert prediction.scores == pytest.approx(scores.tolist())
    assert prediction.label == int(scores.argmax())
    path = export(tmp_path / "run", tmp_path / "weights.safetensors")
    state = {f"block0.{name}": tensor for name, tensor in network.blocks[0].state_dict().items()}
    exported = load_file(path)
    assert exported.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in exported.items())


@pytest.mark.long
def test_sigterm_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_from_shell(run: Path) -> int:
        return main(["train", "digits", "--backprop", "--epochs", "2", "--run-dir", str(run)])

    run, whole = tmp_path / "run", tmp_path / "whole"
    with monkeypatch.context() as patch:
        act_at(15, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        assert train_from_shell(run) == 130
    assert summary_of(run)["status"] == "interrupted"
    assert main(["resume", str(run)]) == 0
    assert train_from_shell(whole) == 0
    assert summary_of(run)["weights_sha256"] == summary_of(whole)["weights_sha256"]


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((200, 8), dtype=np.float32) * 1e38
    np.savez(
        tmp_path / "wild.npz", x_train=images, y_train=np.arange(200) % 2, x_test=images, y_test=np.arange(200) % 2
    )
    fields = {
        "training.dims": [8, 5, 5],
        "training.data.source": "npz",
        "training.data.train": [str(tmp_path / "wild.npz")],
        "training.data.validation": 0,
        "training.data.test_count": 0,
        "execution.evaluate_every": 0,
    }
    with pytest.raises(RunFailed, match=r"the loss of layer 0 is (inf|nan) at step [0-9]: try"):
        train(config(tmp_path / "run", **fields))
    assert summary_of(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"execution.device": "cuda"}, "cuda"),
        ({"execution.device": ["cuda", "cpu"], "execution.stages": 2}, "cuda"),
        ({"training.dims": [64, 1_000_000, 1_000_000]}, "this config needs at least"),
    ],
)
def test_what_is_refused_writes_nothing(fields: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        train(config(tmp_path / "run", **fields))
    assert not (tmp_path / "run").exists()

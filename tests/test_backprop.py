"""The yardstick learns, repeats itself, and uses the data as the trainer does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from ffpipe import Config, Interrupt, Interrupted, RunFailed, UserError, load, override, recipe, resume, train
from ffpipe.commands.cli import main
from ffpipe.config.fields import read_config
from ffpipe.data.splits import load_splits
from ffpipe.runs.backprop import Mlp, error_rate
from ffpipe.runs.view import QuietView


def config(run_dir: Path, **fields: object) -> Config:
    plain = {
        "training.method": "backprop",
        "training.epochs": 6,
        "execution.evaluate_every": 2,
        "execution.run_dir": str(run_dir),
    }
    return override(recipe("digits"), {**plain, **fields})


class Said(QuietView):
    """Keeps what is said; asks for the end of the run when it has been said for the first time."""

    def __init__(self, interrupt: Interrupt | None = None) -> None:
        self.lines: list[str] = []
        self.interrupt = interrupt

    def note(self, text: str) -> None:
        self.lines.append(text)
        if self.interrupt is not None and not self.interrupt.wished:
            self.interrupt.request()


def test_it_learns_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    said = Said()
    first = train(config(tmp_path / "a"), said)
    assert first.test_error_softmax is not None
    assert first.test_error_softmax < 0.1
    assert [line.split(":")[0] for line in said.lines[:3]] == [f"after epoch {n}" for n in (2, 4, 6)]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["engine"] == "backprop"
    assert summary["steps"] == 6 * 28
    again = train(config(tmp_path / "b"))
    assert again.weights_sha256 == first.weights_sha256
    kept = override(read_config(tmp_path / "a" / "config.toml"), {"execution.run_dir": str(tmp_path / "d")})
    assert train(kept).weights_sha256 == first.weights_sha256


def test_what_of_the_training_half_it_knows(tmp_path: Path) -> None:
    each: dict[str, dict[str, object]] = {
        "plain": {},
        "seed": {"training.seed": 2**53 - 1},
        "jitter": {"training.jitter": 1},
        "dropout": {"training.dropout": 0.1},
        "precision": {"training.precision": "bfloat16"},
        "schedule": {"training.schedule": "constant"},
        "five": {"training.data.positive_classes": 5, "training.negatives": "others"},
    }
    some = {"training.epochs": 2, "training.dims": [64, 40, 30]}
    digests = {name: train(config(tmp_path / name, **some, **fields)).weights_sha256 for name, fields in each.items()}
    assert len(set(digests.values())) == len(each)
    summary = json.loads((tmp_path / "five" / "summary.json").read_text())
    assert summary["steps"] < json.loads((tmp_path / "plain" / "summary.json").read_text())["steps"]


def test_its_config_begins_it_again_whatever_was_asked_for_of_stages(tmp_path: Path) -> None:
    fields = {"execution.stages": 2, "execution.cpus": [1, 1], "execution.labels": {"zone": ["a", "b"]}}
    first = train(config(tmp_path / "a", **{"training.epochs": 2, **fields}))
    kept = override(read_config(tmp_path / "a" / "config.toml"), {"execution.run_dir": str(tmp_path / "b")})
    assert train(kept).weights_sha256 == first.weights_sha256


def test_no_memory_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("ffpipe.runs.backprop.cross_entropy", refuse)
    with pytest.raises(RunFailed, match="backpropagation failed: RuntimeError: can't allocate memory"):
        train(config(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_the_architecture_is_that_of_the_recipe() -> None:
    network = Mlp(recipe("digits").training, 10)
    shapes = [tuple(weight.shape) for weight in network.parameters() if weight.ndim == 2]
    assert shapes == [(500, 64), (500, 500), (500, 500), (10, 500)]
    assert network(torch.zeros(3, 64)).shape == (3, 10)


def test_a_split_without_examples_has_no_error() -> None:
    config = recipe("digits")
    empty = load_splits(
        override(config, {"training.data.validation": 0, "execution.evaluate_every": 0}).training.data, ""
    )
    assert error_rate(Mlp(config.training, 10), empty.validation) is None


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--backprop", "--epochs", "1", "--run-dir", run]) == 0
    assert "by backpropagation" in capsys.readouterr().out
    summary = (tmp_path / "run" / "summary.json").read_bytes()
    assert main(["train", "digits", "--backprop", "--run-dir", run]) == 2
    assert "exists" in capsys.readouterr().err
    for command in (["evaluate", run], ["resume", run], ["export", run, str(tmp_path / "a.safetensors")]):
        assert main(command) == 2
        assert "is of backpropagation, which keeps no weights" in capsys.readouterr().err
    assert (tmp_path / "run" / "summary.json").read_bytes() == summary
    assert main(["plan", str(tmp_path / "run" / "config.toml")]) == 2
    assert "training.method is 'backprop'" in capsys.readouterr().err
    for wrong in (resume, load):
        with pytest.raises(UserError, match="train it again"):
            wrong(run)


def test_an_interrupt_ends_it_and_says_so(tmp_path: Path) -> None:
    interrupt = Interrupt()
    with pytest.raises(Interrupted, match="keeps no snapshots"):
        train(config(tmp_path / "run"), Said(interrupt), interrupt)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("interrupted", 2 * 28)


def test_sigterm_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffpipe.runs.backprop.write_metrics", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", "digits", "--backprop", "--run-dir", str(tmp_path / "run")]) == 130
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


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
    with pytest.raises(RunFailed, match="the loss of backpropagation is"):
        train(config(tmp_path / "run", **fields))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"execution.device": "cuda"}, "cuda"),
        ({"execution.memory_budget": "1GiB"}, "execution.memory_budget is set"),
        ({"execution.trace": True}, "execution.trace is set"),
        ({"execution.device": ["cpu", "cpu"]}, "names 2 devices"),
        ({"training.dims": [64, 1_000_000, 1_000_000]}, "backpropagation through this network needs at least"),
    ],
)
def test_what_is_refused_writes_nothing(fields: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        train(config(tmp_path / "run", **fields))
    assert not (tmp_path / "run").exists()

"""The yardstick learns, repeats itself, and uses the data as the trainer does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ffpipe import Config, UserError, override, recipe
from ffpipe.backprop import Mlp, train_backprop
from ffpipe.cli import main


def config(run_dir: Path, **fields: object) -> Config:
    plain = {"training.epochs": 6, "execution.evaluate_every": 2, "execution.run_dir": str(run_dir)}
    return override(recipe("digits"), {**plain, **fields})


def test_it_learns_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    said: list[str] = []
    first = train_backprop(config(tmp_path / "a"), said.append)
    assert first.test_error_softmax is not None
    assert first.test_error_softmax < 0.1
    assert [line.split(":")[0] for line in said[:3]] == [f"after epoch {n}" for n in (2, 4, 6)]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["engine"] == "backprop"
    assert summary["steps"] == 6 * 28
    again = train_backprop(config(tmp_path / "b"))
    assert again.weights_sha256 == first.weights_sha256
    other = train_backprop(
        config(tmp_path / "c", **{"training.seed": 9, "training.jitter": 1, "training.dropout": 0.1})
    )
    assert other.weights_sha256 != first.weights_sha256


def test_the_architecture_is_that_of_the_recipe() -> None:
    network = Mlp(recipe("digits").training, 10)
    shapes = [tuple(weight.shape) for weight in network.parameters() if weight.ndim == 2]
    assert shapes == [(500, 64), (500, 500), (500, 500), (10, 500)]
    assert network(torch.zeros(3, 64)).shape == (3, 10)


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--backprop", "--epochs", "1", "--run-dir", run]) == 0
    assert "by backpropagation" in capsys.readouterr().out
    assert main(["train", "digits", "--backprop", "--run-dir", run]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["evaluate", run]) == 2
    assert "no whole snapshot" in capsys.readouterr().err


def test_what_is_refused_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cuda"):
        train_backprop(config(tmp_path / "run", **{"execution.device": "cuda"}))
    assert not (tmp_path / "run").exists()

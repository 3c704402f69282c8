"""The command as a person meets it: wrong input first."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import warm
from commands import refused
from PIL import Image

from ffpipe.commands.cli import main, parser
from ffpipe.commands.options import config_of
from ffpipe.config.fields import override, read_config, to_toml
from ffpipe.config.recipes import get_recipe

EMPTY = "the name of a file or a folder is empty: give one, or . for the working folder"
QUICK = ["--engine", "local", "--epochs", "1", "--training.dims", "64", "100", "80", "--execution.stages", "1"]


def ffpipe(*arguments: str, cwd: Path, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [warm.python(), "-m", "ffpipe", *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *QUICK, "--epochs", "12", "--run-dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "digits", "--data", ""], "--data has an empty name"),
        (["train", "digits", "--data", ".", "--data", "."], "--data names the folder . and others: give one folder"),
        (["train", "mnits"], "did you mean 'mnist'"),
        (["train", "--training.batch-sizes", "5"], "did you mean '--training.batch-size'"),
        (["train", "--stage", "5"], "did you mean '--stages'"),
        (["data", "digits", "--size", "32"], "did you mean '--training.data.size'?"),
        (["train", "--learning-rate", "1"], "did you mean '--training.optimizer.learning-rate'?"),
        (["train", "--zebra"], "unknown option '--zebra'; see ffpipe train --help"),
        (["resume", "runs/one", "--batch-size", "9"], "that it began with, of which only --epochs changes"),
        (["resume", "runs/one", "--run-dir", "b"], "'--run-dir'; a run goes on in its own folder"),
        (["resume", "runs/one", "--execution.run-dir", "b"], "'--execution.run-dir'; a run goes on in its own folder"),
        (["resume", "runs/one", "--training.peer", "1"], "'--training.peer'; a run goes on in its own folder"),
        (["resume", "runs/one", "--epoch", "9"], "did you mean '--epochs'?\n"),
        (["train", "digits", "mnist"], "unexpected argument 'mnist'"),
        (["trian"], "trian"),
        ([], "COMMAND"),
        (["train", "--epochs"], "--epochs"),
        (["train", "--epochs", "0"], "training.epochs: expected int >= 1"),
        (["train", "--epochs", "ten"], "training.epochs: expected int"),
        (["train", "--seed", "-1"], "training.seed"),
        (["train", "--engine", "spark"], "'ray' or 'local'"),
        (["train", "--device", "tpu"], "'cpu' or 'cuda'"),
        (["train", "--training.dims", "65", "30", "20"], "64 features: give 64 30 20"),
        (["train", "--stages", "4"], "execution.stages is 4, but there are 3 layers"),
        (["train", "--chunk", "25"], "allow at most 24"),
        (["train", "--training.batch-size", "1500"], "1400 training examples"),
        (["train", "--training.data.test-count", "1797"], "training.data"),
        (["train", "--backprop", "--training.jitter", "1000000"], "give at most 7"),
        (
            ["train", "--training.optimizer.kind", "Adam", "--training.optimizer.options", "lr=1"],
            "optimizer.learning_rate",
        ),
        (
            ["train", "--training.optimizer.options", "fused=true"],
            "give --training.optimizer.options and nothing after it",
        ),
        (["train", "--training.data.classes", "9"], "classes"),
        (["train", "--training.labels", "overlay", "--training.data.source", "idx"], "training.data.train"),
        (["train", "--execution.resources", "tpu"], "NAME=VALUE"),
        (["train", "absent.toml"], "absent.toml"),
        (["train", "--data-dir", "~nosuchuser/data"], "a home folder that is not known"),
        (["train", "--run-dir", "~nosuchuser/run"], "a home folder that is not known"),
        (
            ["train", "--data-dir", "\udcff"],
            "execution.data_dir is '\\udcff', which has a character that no name can have",
        ),
        (["train", "--epochs", "9999", "--execution.log-steps", "1"], "400,000 rows of metrics: give at least 3"),
        (["train", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere is not a folder"),
        (["evaluate", "."], "is not a run"),
        *(([*words, ""], EMPTY) for words in (["resume"], ["evaluate"], ["show"], ["runs"], ["report"])),
        (["predict", "", "a.png"], EMPTY),
        (["export", "", "out.safetensors"], EMPTY),
        (["data", "digits", "--png", ""], EMPTY),
        (["predict", ".", "a.png"], "is not a run"),
        (["export", ".", "out.safetensors"], "is not a run"),
    ],
)
def test_one_line_and_status_2(arguments: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(arguments, says, capsys)
    assert list(here.iterdir()) == []


def test_a_folder_whose_name_cannot_be_written_down(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = here / "caf\udce9"
    inside.mkdir()
    monkeypatch.chdir(inside)
    refused(["train"], "run folder", capsys)
    refused(["train", "--run-dir", "run"], "not text in UTF-8: give another with --run-dir", capsys)
    elsewhere = ["train", "--run-dir", str(here / "run")]
    refused([*elsewhere, "--data-dir", "data"], "execution.data_dir is", capsys)
    npz = ["--training.data.source", "npz", "--training.data.train", "mine.npz"]
    refused([*elsewhere, *npz], "training.data.train[0] is", capsys)
    assert [*here.iterdir(), *inside.iterdir()] == [inside]


def test_options_of_an_optimiser_can_be_taken_away(here: Path) -> None:
    adam = override(
        get_recipe("digits"), {"training.optimizer.kind": "Adam", "training.optimizer.options": {"fused": True}}
    )
    (here / "mine.toml").write_text(to_toml(adam))
    plain = ["--training.optimizer.kind", "averaging", "--training.optimizer.options"]
    assert main(["train", "mine.toml", *QUICK, "--run-dir", "run", *plain]) == 0
    assert read_config(here / "run" / "config.toml").training.optimizer.options == {}


@pytest.mark.parametrize(("words", "every"), [([], 0), (["--execution.evaluate-train", "20"], 5)])
def test_without_validation_training_examples_may_be_tested(words: list[str], every: int) -> None:
    assert get_recipe("digits").execution.evaluate_every == 5
    asked = parser().parse_args(["train", "digits", "--training.data.validation", "0", *words])
    assert config_of(asked).execution.evaluate_every == every


def test_a_run_folder_that_exists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine").mkdir()
    refused(["train", "--run-dir", "mine"], "exists", capsys)
    assert list((here / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--execution.cpus", "64"], "need 128 CPU"),
        (["--device", "cuda"], "GPU"),
        (["--execution.resources", "tpu=1"], "tpu"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_more_than_the_cluster_has(
    options: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    refused(["train", *options], says, capsys, before="starting 2 stages with Ray\n")
    assert time.monotonic() - started < 30
    assert list(here.iterdir()) == []


def test_a_ray_address_where_nobody_is(here: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = ffpipe("train", cwd=here, RAY_ADDRESS=f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert "RAY_ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(here.iterdir()) == []


def test_what_a_run_leaves(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.toml",
        "metrics.parquet",
        "past.json",
        "summary.json",
    ]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["recipe"] == "digits"
    assert summary["engine"] == "local"
    assert summary["epochs"] == 12
    assert summary["steps"] == 12 * 28
    assert summary["recoveries"] == 0
    assert 0 < summary["test_error_goodness"] < 0.5
    assert 0 < summary["test_error_softmax"] < 0.5
    assert len(summary["weights_sha256"]) == 64
    assert len(summary["peak_rss_bytes"]) == summary["stages"] == 1
    assert set(summary["versions"]) == {"python", "torch", "ray", "ffpipe"}
    metrics = pq.read_table(run / "metrics.parquet").to_pylist()
    assert [(row["step"], row["layer"]) for row in metrics] == [(28 * e, i) for e in range(1, 13) for i in (-1, 0, 1)]
    assert metrics[-1]["loss"] < metrics[1]["loss"]


def test_evaluate_says_what_training_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert main(["evaluate", str(run)]) == 0
    line = capsys.readouterr().out
    assert f"{summary['test_error_goodness']:.2%} by goodness" in line
    assert f"{summary['test_error_softmax']:.2%} by softmax" in line


def test_the_config_of_a_run_runs_again_to_the_bit(run: Path, here: Path) -> None:
    assert main(["train", str(run / "config.toml"), "--run-dir", "again"]) == 0
    first, second = (json.loads((f / "summary.json").read_text()) for f in (run, here / "again"))
    assert first["weights_sha256"] == second["weights_sha256"]


def test_predict_refuses_another_size(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(here / "a.png")
    refused(["predict", str(run), "a.png"], "a.png", capsys)
    refused(["predict", str(run), "~nosuchuser/a.png"], "a home folder that is not known", capsys)


def test_an_error_whose_output_is_closed_is_not_an_answer(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as after 2>&-
    assert main(["show", "nowhere"]) == 2
    sys.stderr.close()
    assert capsys.readouterr().out == ""


@pytest.mark.long
def test_output_that_is_closed(run: Path, here: Path) -> None:
    """Nobody reads what a run says: it is done all the same. A command whose answer is lost has failed."""
    command = f"{sys.executable} -m ffpipe"
    train = f"{command} train {' '.join(QUICK)}"
    for line, status in (
        (f"{train} --run-dir a >&-", 0),
        (f"set -o pipefail; {train} --run-dir b | true", 0),
        (f"{train} --run-dir c > /dev/full", 0),
        (f"{command} evaluate {run} > /dev/full", 1),
        (f"{train} --training.optimizer.learning-rate 1e30 --run-dir d > /dev/full", 1),
    ):
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            ["bash", "-c", line], cwd=here, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, (line, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_export_refuses_a_file_that_exists(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "out.safetensors"]) == 0
    refused(["export", str(run), "out.safetensors"], "exists", capsys)
    refused(["export", str(run), "absent/out.safetensors"], "absent is not a folder", capsys)
    refused(["export", str(run), "~nosuchuser/out.safetensors"], "a home folder that is not known", capsys)
    assert [path.name for path in here.iterdir()] == ["out.safetensors"]


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "digits" in out
    assert "mnist" in out


def test_the_main_job_from_a_shell_leaves_nothing_running(here: Path) -> None:
    """Two Ray stages on real data, plain lines, and afterwards no process and no temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:  # short enough for Ray's sockets
        done = ffpipe("train", "--epochs", "3", "--run-dir", "run", cwd=here, TMPDIR=temporary)
        assert list(Path(temporary).iterdir()) == []
        left = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and temporary.encode() in command_line(p)]
    assert left == []
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("starting 2 stages with Ray\n")
    assert "engine ray, 2 stage(s)" in done.stdout
    assert "test error:" in done.stdout
    assert f"run folder: {here / 'run'}" in done.stdout
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert summary["engine"] == "ray"
    assert len(summary["peak_rss_bytes"]) == 2


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""

"""`ffpipe train --dry-run` and `ffpipe resume --dry-run` say what would be done, and do nothing of it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import refused
from strangers import fresh

from ffpipe.commands.cli import main
from ffpipe.config.fields import from_toml, override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Config
from ffpipe.runs.folder import RunFolder
from ffpipe.system.memory import host_cpus

SMALL = ["--engine", "local", "--training.dims", "64", "20", "20", "--stages", "1"]


# More than this host has CPUs.
MANY = 1 << host_cpus().bit_length()
LOCAL = ("--engine", "local", "--execution.chunk", "1")
OF_MANY = ("--training.shards", str(MANY), "--training.batch-size", str(25 * MANY))
REPLICAS = (*OF_MANY, "--execution.replicas", str(MANY))


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Return names, sizes and times of all that is there."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def dry(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[Config, list[str]]:
    """Return the config that is printed, and the lines below it. All of it is a config file, and nothing is written."""
    capsys.readouterr()
    before = files_below(Path())
    assert main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert files_below(Path()) == before
    assert tomllib.loads(out)
    return from_toml(out, where="out"), [line.removeprefix("# ") for line in out.splitlines() if line.startswith("# ")]


@pytest.mark.parametrize("engine", ["local", "ray", "layerwise"])
def test_a_config_and_the_plan(engine: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["digits", *SMALL, "--engine", engine, "--seed", "7"]
    config, lines = dry(["train", *arguments], capsys)
    fields = {"training.dims": [64, 20, 20], "training.seed": 7, "execution.stages": 1, "execution.engine": engine}
    assert config == override(get_recipe("digits"), fields)
    assert str(here / "runs" / "digits-") in lines[0]
    assert main(["plan", *arguments]) == 0
    planned = capsys.readouterr().out.splitlines()
    of_plan = [line for line in planned if line.startswith(("engine ", "disk for"))]
    assert len(of_plan) >= 2
    assert set(of_plan) <= set(lines)
    assert any("examples/s" in line for line in lines)
    assert list(here.iterdir()) == []


def test_no_control_character_of_a_config_comes_to_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x9b2J\u202e\N{GRINNING FACE}"
    assert main(["train", *SMALL, "--run-dir", name, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(character.isprintable() for line in out.split("\n") for character in line)
    assert from_toml(out, where="out").execution.run_dir == name


def test_what_was_printed_can_be_trained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--epochs", "1", "--run-dir", "one", "--dry-run"]) == 0
    (here / "mine.toml").write_text(capsys.readouterr().out)
    assert main(["train", "mine.toml"]) == 0
    assert (here / "one" / "summary.json").exists()


@pytest.mark.parametrize(
    ("more", "steps", "epochs"),
    [([], 28, 1), (["--epochs", "5", "--stages", "2"], 28, 5), (["old"], 20, 1), (["none"], 0, 1)],
)
def test_a_run_would_go_on(
    more: list[str], steps: int, epochs: int, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does so from its newest whole snapshot."""
    run = fresh(strangers_run, here / "run")
    snapshots = sorted(run.glob("checkpoints/step-*"))
    for snapshot in {"old": snapshots[1:], "none": snapshots}.get("".join(more), []):
        (snapshot / "manifest.json").unlink()
    options = [word for word in more if word not in ("old", "none")]
    config, lines = dry(["resume", "run", *options], capsys)
    assert config.training.epochs == epochs
    assert lines[:2] == [
        "run folder: run",
        f"it would go on from step {steps}, its newest snapshot (if no file of it is damaged)"
        if steps
        else "it would go on from the start: there is no whole snapshot",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--run-dir", "run"], "run exists: give a new one"),
        (["train", "--stages", "9"], "execution.stages is 9"),
        (["train", "--data-dir", "nowhere", "mnist"], "nowhere"),
        (["train", "--data", "bad.csv"], "bad.csv"),
        (["train", "--model", "absent.py:f"], "absent.py"),
        (["train", "--stages", "1", *REPLICAS], f"has {MANY} replicas ({MANY} processes in all), the cluster has "),
        (["train", "--training.dims", "64,200000,200000", *LOCAL], "GiB, this host has"),
        (["train", "--training.dims", "64,200000,200000", *LOCAL], "give a speed to ffpipe plan, as --flops"),
        (["resume", "absent"], "absent is not a folder"),
        (["resume", "run", "--execution.checkpoints", "hf://a/b"], "is not a place for snapshots"),
    ],
)
def test_what_would_be_refused_is(
    arguments: list[str], says: str, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh(strangers_run, here / "run")
    (here / "bad.csv").write_text("label,p,q\n1,2,3\n0,1,\n" * 40)
    before = files_below(here)
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 2
    # Not half a config either, which would be taken for a whole one where it goes to a file.
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), says in err) == ("", 1, True), (out, err)
    assert files_below(here) == before


@pytest.mark.parametrize(
    "more",
    [(*REPLICAS, "--execution.cpus", "0.01"), (*REPLICAS, "--engine", "local"), ("--stages", str(MANY))],
    ids=["a part of a CPU each", "one process", "stages without replicas"],
)
def test_more_processes_than_cpus_where_they_may_be(more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    dims = ["--training.dims", "64", *["20"] * MANY]
    assert main(["train", "digits", *dims, "--engine", "ray", "--stages", "1", *more, "--dry-run"]) == 0
    capsys.readouterr()


def test_a_cluster_that_is_joined_may_have_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert main(["train", "digits", *SMALL, "--engine", "ray", *REPLICAS, "--dry-run"]) == 0
    capsys.readouterr()


def test_a_run_that_is_at_work_is_left_alone(
    here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fresh(strangers_run, here / "run")
    with RunFolder(run).lock():
        refused(["resume", "run", "--dry-run"], "another process is training run", capsys)

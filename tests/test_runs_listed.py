"""`ffpipe runs` and `ffpipe show`: states of runs, their errors and how they go on."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from commands import refused
from looks import SCREEN, as_json, printed
from rights import modes_hold
from strangers import set_field

from ffpipe.commands.show import _optimizers, _ranges
from ffpipe.config.fields import to_toml
from ffpipe.config.recipes import get_recipe
from ffpipe.reports.gather import read_run
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.inspection import LOCK, look_at
from ffpipe.telemetry.report import MOST_STEPS


def set_status(run: Path, status: str) -> None:
    set_field(run / "summary.json", "status", status)


@pytest.mark.parametrize(
    ("said", "state"),
    [("finished", "finished"), ("interrupted", "interrupted"), ("failed", "failed"), ("running", "broken off")],
)
def test_the_state_of_a_run(said: str, state: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_status(runs / "first", said)
    (look,) = as_json(["runs"], capsys)
    assert (look["run"], look["recipe"], look["state"], look["step"], look["epochs"]) == (
        "first",
        "digits",
        state,
        28,
        1,
    )
    assert state in " ".join(printed(["runs"], capsys))
    assert as_json(["show", "runs/first"], capsys)["state"] == state


def test_a_look_at_a_run_holds_up_no_trainer(runs: Path) -> None:
    run = runs / "first"
    with (run / LOCK).open("w") as looked:
        fcntl.flock(looked, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (looked, fcntl.LOCK_UN)).start()
        with RunFolder(run).lock() as warning:
            assert warning == ""


@pytest.mark.parametrize("keep", ["steps_per_epoch", ""], ids=["today's", "of version 0.1"])
def test_a_run_that_was_killed_after_it_was_given_more_epochs(
    keep: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config is of the longer run, and its summary of the one that was finished."""
    run = runs / "first"
    set_field(run / "config.toml", "training/epochs", 30)
    if not keep:
        set_field(run / "summary.json", "steps_per_epoch", 0)
    with RunFolder(run).lock():
        (look,) = as_json(["runs"], capsys)
        assert (look["state"], look["split"], look["errors"]) == ("running", None, {})
    (look,) = as_json(["runs"], capsys)
    assert (look["state"], look["split"], look["errors"]) == ("broken off", None, {})
    assert ("1 of 30 epochs" if keep else "step 28") in printed(["runs"], capsys)[1]
    assert as_json(["show", "runs/first"], capsys)["goes_on_with"] == "ffpipe resume runs/first"
    assert read_run(run).status == "broken off"


def test_numbers_that_are_not_finite_leave_a_run_whole(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(runs / "first")
    summary, finite = json.loads(folder.summary.read_text()), folder.summary.read_bytes()
    folder.write_summary(summary)
    assert folder.summary.read_bytes() == finite
    judged = {"step": 28, "split": "test", "examples": 9, "error_goodness": None, "error_softmax": 0.5}
    folder.write_summary(summary | {"evaluations": [{**judged, "losses": {"block.0": math.inf, "block.1": -math.nan}}]})
    assert as_json(["runs"], capsys)[0]["state"] == "finished"
    (shown,) = as_json(["show", "runs/first"], capsys)["evaluations"]
    assert shown["losses"] == {"block.0": None, "block.1": None}


def test_a_run_is_at_work_while_its_lock_is_held(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock counts whatever the summary says, and before there is one."""
    for status in ("finished", "running", ""):
        if status:
            set_status(runs / "first", status)
        else:
            (runs / "first" / "summary.json").unlink()
        with RunFolder(runs / "first").lock():
            shown = as_json(["show", "runs/first"], capsys)
            assert (as_json(["runs"], capsys)[0]["state"], shown["state"]) == ("running", "running")
            assert shown["goes_on_with"] is None
            assert printed(["show", "runs/first"], capsys)[-1].endswith("it is being trained")
        assert as_json(["runs"], capsys)[0]["state"] == ("finished" if status == "finished" else "broken off")


def test_a_look_leaves_the_lock_to_a_trainer(runs: Path) -> None:
    look_at(runs / "first")
    with RunFolder(runs / "first").lock() as warning:
        assert warning == ""


def test_the_run_that_was_written_to_last_is_at_the_end(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, second in (("a", 3000), ("b", 1000), ("c", 2000), ("first", 4000)):
        run = runs / name if name == "first" else Path(shutil.copytree(runs / "first", runs / name))
        for file in run.iterdir():
            os.utime(file, (second, second))
    (runs / "notes.txt").touch()
    (runs / "empty").mkdir()
    assert [look["run"] for look in as_json(["runs"], capsys)] == ["b", "c", "a", "first"]
    lines = printed(["runs"], capsys)
    assert lines[0].split() == ["run", "recipe", "state", "trained", "errors", "time"]
    assert [line.split()[0] for line in lines[1:]] == ["b", "c", "a", "first"]


def test_errors_are_those_of_the_test_or_else_the_newest_validation(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, summary = runs / "first", runs / "first" / "summary.json"
    tree = json.loads(summary.read_text())
    (look,) = as_json(["runs"], capsys)
    assert (look["split"], look["errors"]["softmax"]) == ("test", tree["test_error_softmax"])
    made = [
        {"step": 10 * n, "split": split, "examples": 9, "error_goodness": n / 100, "error_softmax": None}
        for n, split in enumerate(("validation", "validation", "train"), 1)
    ]
    set_status(run, "interrupted")
    for name, value in {"evaluations": made, "test_error_goodness": None, "test_error_softmax": None}.items():
        set_field(summary, name, value)
    (look,) = as_json(["runs"], capsys)
    assert (look["split"], look["errors"]) == ("validation", {"goodness": 0.02})
    assert "2.00% by goodness (validation)" in printed(["runs"], capsys)[1]


def test_a_run_is_shown_on_one_screen(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((runs / "first" / "summary.json").read_text())
    lines = printed(["show", "runs/first"], capsys)
    text = "\n".join(lines)
    for said in (
        "runs/first: finished",
        "digits: 64-20-20-20, hard negatives",
        "1 epoch, batch 50, seed 1, float32, averaging at 0.01",
        "28 saved, 1 of 1 epoch; engine local, 1 stage(s) of layers 0-2",
        f"{summary['test_error_softmax']:.2%} by softmax (test)",
        "recovered never",
        "go on     ffpipe resume runs/first --epochs 2",
    ):
        assert said in text
    assert [line.split()[0] for line in lines if line.startswith(" " * 10)][-4:] == ["0", "1", "2", "head"]
    assert len(lines) <= SCREEN[0]
    shown = as_json(["show", "runs/first"], capsys)
    assert [row["layer"] for row in shown["blocks"]] == [0, 1, 2, -1]
    assert shown["peak_rss_bytes"] == summary["peak_rss_bytes"]


def test_optimizers_of_blocks_are_all_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in recipe cwcomp, whose last block has one of its own."""
    (runs / "first" / "config.toml").write_text(to_toml(get_recipe("cwcomp")))
    lines = printed(["show", "runs/first"], capsys)
    assert "          Adam at 0.01 (block 0-3), SGD at 0.01 (block 4)" in lines
    training = get_recipe("cwcomp").training
    first, last = training.blocks[0], training.blocks[-1]
    assert list(_optimizers(replace(training, blocks=(last, first, last, last))).values()) == [[0, 2, 3], [1]]
    assert _ranges([0, 2, 3]) == "0 2-3"
    assert list(_optimizers(replace(training, method="backprop"))) == ["Adam at 0.01"]
    assert list(_optimizers(replace(get_recipe("hinton").training, method="backprop"))) == ["Adam at 0.001"]


def test_a_long_run_is_shown_on_one_screen_too(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "first"
    many = [
        {"step": n, "split": "validation", "examples": 9, "error_goodness": 0.5, "error_softmax": 0.25}
        for n in range(1000)
    ]
    note = {"reason": "stage 1 was lost " * 50, "from_step": 20, "lost_steps": 5, "stages": 2}
    set_field(run / "summary.json", "evaluations", many)
    set_field(run / "summary.json", "stage_layers", [[index] for index in range(900)])
    set_field(run / "summary.json", "recovery_notes", [note] * 30)
    rows = [{"step": MOST_STEPS, "layer": n, "loss": 0.5, "pair_errors": None} for n in range(-1, 900)]
    set_field(run / "past.json", "rows", rows)
    set_field(run / "config.toml", "training/data/train", ["x" * 4000])
    lines = printed(["show", "runs/first"], capsys)
    assert len(lines) <= SCREEN[0] + 6
    assert max(map(len, lines)) <= SCREEN[1]
    assert "999" in " ".join(lines)
    assert "best      50.00% by goodness after epoch 0, 25.00% by softmax after epoch 0 (validation)" in lines
    assert "30 time(s)" in " ".join(lines)


@pytest.mark.parametrize(
    ("status", "model", "command"),
    [
        ("finished", "", "ffpipe resume 'my runs/it' --epochs 2"),
        ("failed", "", "ffpipe resume 'my runs/it'"),
        ("interrupted", "my net.py:blocks", "ffpipe resume 'my runs/it' --model 'my net.py:blocks'"),
    ],
)
def test_the_command_that_goes_on(
    status: str, model: str, command: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "first").rename(runs / "it")
    runs.rename("my runs")
    set_status(Path("my runs/it"), status)
    set_field(Path("my runs/it/config.toml"), "training/model", model)
    assert as_json(["show", "my runs/it"], capsys)["goes_on_with"] == command


def test_a_folder_that_may_not_be_entered_is_said_to_be_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is listed, as a run is whose summary may not be read: it may be one."""
    shutil.copytree(runs / "first", runs / "second")
    locked, why = runs / "second", "cannot be entered: Permission denied"
    locked.chmod(0)
    try:
        with modes_hold():
            looks = as_json(["runs"], capsys)
            assert [(look["run"], look["state"], look["damage"]) for look in looks] == [
                ("second", "damaged", [why]), ("first", "finished", [])
            ]  # fmt: skip
            assert printed(["runs"], capsys)[1].split(maxsplit=4)[4].startswith(why)
            for command in ("show", "report", "resume", "evaluate"):
                refused([command, "runs/second"], f"runs/second {why}", capsys)
            runs.chmod(0)
            refused(["show", "runs/first"], f"runs/first {why}", capsys)
            refused(["runs"], f"runs {why}", capsys)
    finally:
        runs.chmod(0o755)
        locked.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs"], "runs is not a folder"),
        (["runs", "absent"], "absent is not a folder"),
        (["runs", "file"], "file is not a folder"),
        (["runs", "run"], "run is a run itself"),
        (["runs", "~nosuchuser"], "a home folder that is not known"),
        (["runs", "a\0b"], "is not a folder"),
        (["show", "absent"], "absent is not a folder"),
        (["show", "file"], "file is not a folder"),
        (["show", "empty"], "empty is not a run"),
        (["show", "x" * 5000], "is not a folder"),
        (["show", "~nosuchuser"], "a home folder that is not known"),
    ],
)
def test_wrong_folders_in_one_line(
    arguments: list[str], says: str, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").touch()
    (here / "empty").mkdir()
    (here / "run").symlink_to(strangers_run)
    refused(arguments, says, capsys)


def test_a_folder_without_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(["runs", "."], capsys) == ["there are no runs in ."]
    assert as_json(["runs", "."], capsys) == []

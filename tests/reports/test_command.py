"""`ffpipe report` as a person meets it: wrong input, runs of which parts are missing, a run that is still going."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import refused
from PIL import Image
from reported import Reported, leave_pictures_out

from ffpipe.commands.cli import main
from ffpipe.config.fields import override, read_config, to_toml
from ffpipe.reports import watch_report, write_report
from ffpipe.reports.style import MARK


@pytest.fixture
def run(reported: dict[str, Reported], tmp_path: Path) -> Path:
    """A copy of the run with pairs."""
    return Path(shutil.copytree(reported["pairs"].run, tmp_path / "run"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pictures_out(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "is not a run"),
        ([], "RUN"),
        (["run", "--out", "absent/report.html"], "there is no folder"),
        (["run", "--out", "notes.txt"], "notes.txt exists and is not a report of ffpipe: give another file with --out"),
        (["run", "--out", "empty"], "it is not a regular file, but a folder"),
        (["run", "--png", "notes.txt"], "--png is notes.txt, which is a file: give a folder"),
        (["run", "--watch", "0"], "--watch is '0': give a whole number from 1"),
        (["run", "--watch", "soon"], "--watch is 'soon'"),
        (["run", "--examples", "0"], "--examples is '0'"),
        (["run", "./run"], "run ./run is named twice: name each run once"),
        (["run", "link"], "run link is named twice"),
    ],
)
def test_one_line_and_status_2(
    run: Path, arguments: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty").mkdir()
    (here / "notes.txt").write_text("mine")
    (here / "link").symlink_to("run")
    before = sorted(os.listdir(here)), sorted(os.listdir(run))
    refused(["report", *arguments], says, capsys)
    assert (sorted(os.listdir(here)), sorted(os.listdir(run))) == before
    assert (here / "notes.txt").read_text() == "mine"


def test_without_matplotlib(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    refused(["report", str(run)], "pip install 'ffpipe[report]'", capsys)
    refused(["train", "--report", "--run-dir", str(run.parent / "new")], "pip install 'ffpipe[report]'", capsys)
    assert not (run.parent / "new").exists()


def test_a_folder_that_is_full_of_other_things(run: Path, fast: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A report of before is written over; a link in its place is not followed."""
    elsewhere = run.parent / "elsewhere.html"
    elsewhere.write_text(f"<!DOCTYPE html>{MARK}")
    (run / "report.html").symlink_to(elsewhere)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"wrote {run / 'report.html'}\n"
    assert not (run / "report.html").is_symlink()
    assert len(elsewhere.read_text()) < 200
    assert main(["report", str(run)]) == 0


def test_pictures_that_no_report_wrote_are_not_written_over(
    run: Path, here: Path, fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written where one of the places cannot be taken; those of an earlier report's pictures can."""
    folder = here / "pictures"
    command = ["report", str(run), "--out", "one.html", "--png", str(folder), "--examples", "20"]
    taken = folder / "timeline.png"  # the last of the pictures but one
    taken.mkdir(parents=True)
    refused(command, "timeline.png: it is not a regular file, but a folder", capsys)
    taken.rmdir()
    Image.new("L", (4, 4)).save(taken)
    mine = taken.read_bytes()
    refused(
        command, "timeline.png exists and is not a picture of ffpipe report: give another folder with --png", capsys
    )
    assert list(folder.iterdir()) == [taken]
    assert taken.read_bytes() == mine
    assert not (here / "one.html").exists()
    taken.unlink()
    for _ in range(2):
        assert main(command) == 0
        assert taken.stat().st_size > 1000


def test_a_run_that_has_just_begun(run: Path, fast: None) -> None:
    for name in ("past.json", "summary.json", "metrics.parquet", "trace.json"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    text = write_report(run).read_text()
    assert '<span class="status">broken off</span>' in text
    assert "errors: there is no past.json: nothing has been measured yet" in text
    assert "never came so far" in text
    assert "shares of time: there is no summary.json: it is written with the first snapshot" in text
    assert "timeline of stages: there is no trace.json: --execution.trace true writes one" in text
    assert "memory of a stage, foretold" in text


def test_code_without_consent_and_a_damaged_past(
    run: Path, here: Path, fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code that the config names is not imported; what can be shown without it is shown."""
    (here / "evil.py").write_text("open('was-here', 'w')\n\ndef blocks():\n    return []\n")
    config = override(
        read_config(run / "config.toml"), {"training.model": "evil.py:blocks", "training.negatives": "none"}
    )
    (run / "config.toml").write_text(to_toml(config))
    (run / "past.json").write_text('{"rows": 3')
    capsys.readouterr()
    text = write_report(run).read_text()
    assert capsys.readouterr().err == (
        "warning: confusions, wrong answers, spread of scores, rows that are trained on, weights and memory of stages "
        f"are left out: run {run} names the code evil.py:blocks, which is imported only if you say so: "
        "give --model evil.py:blocks or --allow-code evil.py\n"
    )
    assert not (here / "was-here").exists()
    assert "names the code evil.py:blocks, which is imported only if you say so" in text
    assert "errors: cannot read" in text
    assert "Shares of each stage" in text


def test_data_that_are_gone(reported: dict[str, Reported], here: Path, fast: None) -> None:
    run = Path(shutil.copytree(reported["classes"].run, here / "run"))
    config = read_config(run / "config.toml")
    (run / "config.toml").write_text(to_toml(override(config, {"training.data.train": ["/nowhere/own.npz"]})))
    text = write_report(run).read_text()
    assert "/nowhere/own.npz is not there any more: give its new place with --training.data.train" in text
    assert "Every evaluation" in text
    there = read_config(reported["classes"].run / "config.toml").training.data.train
    text = write_report(run, changes={"training.data.train": there}).read_text()
    assert "Most frequent confusions" in text
    assert "not there any more" not in text


def test_nothing_is_downloaded(here: Path, fast: None, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFPIPE_CACHE", str(here / "cache"))
    of_mnist = {"training.data.source": "mnist", "training.data.test_count": 0, "training.dims": [784, 30, 30, 30]}
    config = override(read_config(run / "config.toml"), of_mnist)
    (run / "config.toml").write_text(to_toml(config))
    text = write_report(run).read_text()
    assert "a report downloads nothing: name them with --data-dir" in text
    monkeypatch.setenv("FFPIPE_DATA", str(here))
    assert f": FFPIPE_DATA is {here}, but MNIST" in write_report(run).read_text()
    (run / "config.toml").write_text(to_toml(override(config, {"execution.data_dir": str(here)})))
    assert f": execution.data_dir (FFPIPE_DATA) is {here}, but MNIST" in write_report(run).read_text()


@pytest.fixture
def locked(run: Path) -> Iterator[int]:
    """The run is trained by a process: this one."""
    handle = os.open(run / ".lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield handle
    os.close(handle)


def test_watch_until_the_run_has_ended(run: Path, locked: int, fast: None) -> None:
    pages, waits = [], []

    def wait(seconds: float) -> None:
        pages.append((run / "report.html").read_text())
        waits.append(seconds)
        if len(waits) == 2:
            fcntl.flock(locked, fcntl.LOCK_UN)

    said: list[Path] = []
    watch_report(run, seconds=7, wait=wait, written=said.append)
    assert waits == [7, 7]
    assert said == [run / "report.html"]
    for page in pages:
        assert '<span class="status">running</span>' in page
        assert '<meta http-equiv="refresh" content="7">' in page
    last = (run / "report.html").read_text()
    assert '<span class="status">finished</span>' in last
    assert 'http-equiv="refresh"' not in last


def test_watch_ends_at_ctrl_c(
    run: Path, locked: int, fast: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ffpipe.reports.report.time.sleep", interrupted)
    assert main(["report", str(run), "--watch"]) == 130
    assert "ffpipe: interrupted" in capsys.readouterr().err


def test_a_report_at_the_end_of_training(here: Path, fast: None, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--engine", "local", "--training.dims", "64", "9", "9", "--epochs", "1", "--run-dir", "run"]
    report = here / "run" / "report.html"
    pages, said = [], []
    for command in (["train", "digits", *small], ["resume", "run", "--epochs", "2"]):
        assert main([*command, "--report"]) == 0
        said.append(capsys.readouterr().out.splitlines()[-1])
        pages.append(report.read_text())
        assert MARK in pages[-1]
        assert '<span class="status">finished</span>' in pages[-1]
    assert said == [f"wrote {report}", "wrote run/report.html"]
    assert pages[0] != pages[1]
    assert re.search(r"^epochs = 2$", pages[1], re.MULTILINE)


@pytest.mark.long
def test_numbers_and_names_that_no_run_writes(run: Path, reported: dict[str, Reported], here: Path, fast: None) -> None:
    """A read-out's name becomes no file elsewhere, and endless numbers end no report. Weights have none of them."""
    shutil.rmtree(run / "checkpoints")
    past = json.loads((run / "past.json").read_text())
    for row in past["rows"][::3]:
        row.update(loss=1.7e308, weight_rms=-1.7e308)
    for each in past["evaluations"]:
        each.update(
            errors={"../../evil": 0.5, "block.x": 1e300}, split=each["split"] if each["step"] > 28 else "x" * 5000
        )
    (run / "past.json").write_text(json.dumps(past))
    summary = json.loads((run / "summary.json").read_text())
    summary.update(
        train_seconds=1e300, peak_rss_bytes=[2**53], stage_layers=[[0, 2**53], []], time_shares=[{"compute": 1e300}]
    )
    (run / "summary.json").write_text(json.dumps(summary))
    before = sorted(os.listdir(here))
    text = write_report(run, png=here / "pictures").read_text()
    assert "x" * 301 not in text
    compared = write_report([run, reported["pairs"].run], here / "compared.html", png=here / "pictures")
    assert "A: run" in compared.read_text()
    assert sorted({*os.listdir(here)} - {*before}) == ["compared.html", "pictures"]
    assert {path.suffix for path in (here / "pictures").iterdir()} == {".png"}

"""The sweep runs what is not done, skips what is, and leaves alone what is another's or of another config."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from disturbed import config as disturbed_config
from disturbed import wait_until
from figures import read_figures
from known_results import ROWS, Row
from repository import SCRIPTS

if TYPE_CHECKING:
    from ffpipe import Result

QUICK = {"training.epochs": 2, "execution.engine": "local", "execution.stages": 1, "execution.evaluate_every": 1}


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """scripts/reproduce.py with a page and results of its own."""
    import reproduce as module

    page = tmp_path / "reproduction.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "PAGE", page)
    return module


def call(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    status: int = module.main()
    return status


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Row:
    """A row that takes a second."""
    row = Row("tiny", "digits", "two epochs", "9.9", ("goodness", "softmax"), (1,), QUICK)
    monkeypatch.setitem(ROWS, "tiny", row)
    return row


@pytest.mark.long
def test_a_row_is_run_kept_skipped_and_put_in_the_table(
    reproduce: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ROWS, "tiny", Row("tiny", "digits", "two epochs", "9.9", ("goodness",), (1, 2, 3), QUICK))
    runs = str(tmp_path / "runs")
    assert call(reproduce, monkeypatch, "tiny", "--seeds", "1", "2", "--runs", runs) == 0
    out = capsys.readouterr().out
    assert "done" not in out
    assert "tiny (seed 3)" in out
    assert call(reproduce, monkeypatch, "tiny", "--seeds", "1", "2", "--runs", runs, "--table") == 0
    assert "tiny, seed 2: done" in capsys.readouterr().out
    figures = read_figures(tmp_path / "results" / "results.json")["tiny"]
    assert set(figures) == {1, 2}
    assert figures[1].command.startswith("ffpipe train digits --seed 1")
    kept = tmp_path / "results" / "tiny" / "1"
    assert sorted(path.name for path in kept.iterdir()) == ["config.toml", "log.txt", "summary.json"]
    assert all(str(tmp_path) not in path.read_text() for path in kept.iterdir())
    lines = (tmp_path / "reproduction.md").read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    row = next(line for line in lines if "`tiny`" in line)
    worst = 100 * max(result.goodness or 0.0 for result in figures.values())
    assert f"(worst {worst:.2f}, 2 of 3 seeds) | float32 |" in row
    assert f"| `{figures[1].command}` |" in row
    assert "9.9" in row


def sweep(folder: Path, row: Row) -> subprocess.Popen[str]:
    """Start the script in a process group of its own, with this row and results of its own."""
    program = f"""
        import sys
        from pathlib import Path
        import reproduce
        reproduce.RESULTS = Path("results")
        reproduce.ROWS["tiny"] = reproduce.{row!r}
        sys.argv = ["reproduce.py", "tiny", "--runs", "runs"]
        sys.exit(reproduce.main())
    """
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_run_save_and_the_next_call_goes_on(
    number: signal.Signals, undisturbed: Result, tmp_path: Path
) -> None:
    same = disturbed_config(tmp_path).training
    fields = {
        "training.epochs": same.epochs,
        "training.dims": list(same.dims),
        "execution.engine": "local",
        "execution.snapshot_steps": 50,
    }
    row = Row("tiny", "digits", "-", "-", ("goodness",), (1,), fields)
    first = sweep(tmp_path, row)
    run = tmp_path / "runs" / "tiny-1"
    wait_until(lambda: any(run.glob("checkpoints/*/manifest.json")))
    # To the whole group, as a terminal does it: the trainer must not get it a second time.
    os.killpg(first.pid, number)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert said.count("\n") == 1
    assert "tiny, seed 1: exit status 130: ffpipe: interrupted; saved after step" in said
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "results").exists()
    second = sweep(tmp_path, row)
    out, said = second.communicate(timeout=120)
    assert said == ""
    assert second.returncode == 0
    assert f"tiny, seed 1: ffpipe resume {run}" in out
    figures = read_figures(tmp_path / "results" / "results.json")["tiny"][1]
    assert figures.weights_sha256 == undisturbed.weights_sha256
    assert figures.goodness == undisturbed.test_error_goodness
    assert figures.softmax == undisturbed.test_error_softmax
    assert "resume" not in figures.command


@pytest.mark.long
def test_two_sweeps_at_once(
    reproduce: Any, tiny: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    (runs / "tiny-1").mkdir(parents=True)
    with (runs / "tiny-1.log").open("a") as log:
        # The lock belongs to the open file, which a trainer has from its sweep and keeps when that is killed.
        fcntl.flock(log, fcntl.LOCK_EX)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log):
            log.close()
            assert call(reproduce, monkeypatch, "tiny", "--runs", str(runs)) == 2
    said = capsys.readouterr().err
    assert "tiny, seed 1: another process runs it" in said
    assert said.count("\n") == 1
    assert (runs / "tiny-1").exists()


@pytest.mark.long
def test_the_yardstick_goes_on_where_it_broke_off(
    reproduce: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {**QUICK, "execution.snapshot_steps": 28}
    monkeypatch.setitem(ROWS, "tiny", Row("tiny", "digits", "-", "-", ("softmax",), (1,), fields, backprop=True))
    run, results, found = tmp_path / "runs" / "tiny-1", tmp_path / "results", []
    for said in (f"--run-dir={run}", f"ffpipe resume {run}"):
        assert call(reproduce, monkeypatch, "tiny", "--runs", str(tmp_path / "runs")) == 0
        assert said in capsys.readouterr().out
        assert call(reproduce, monkeypatch, "tiny", "--runs", str(tmp_path / "runs")) == 0
        assert "tiny, seed 1: done" in capsys.readouterr().out
        found.append(read_figures(results / "results.json")["tiny"][1])
        # As it was before the last of two epochs.
        shutil.rmtree(results)
        shutil.rmtree(run / "checkpoints" / "step-00000056")
    first, second = found
    assert (first.engine, first.stages, first.goodness) == ("local", 1, None)
    assert first.command.startswith("ffpipe train digits --backprop --seed 1 --training.epochs=2")
    assert 0 < (first.softmax or 0) < 0.5
    assert (second.weights_sha256, second.softmax) == (first.weights_sha256, first.softmax)


@pytest.mark.long
def test_what_was_run_with_other_constants_is_neither_skipped_nor_resumed(
    reproduce: Any, tiny: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = ("tiny", "--runs", str(runs))
    assert call(reproduce, monkeypatch, *arguments) == 0
    other = Row(tiny.name, tiny.recipe, "-", "-", tiny.ours, (1,), {**QUICK, "training.optimizer.learning_rate": 0.02})
    monkeypatch.setitem(ROWS, "tiny", other)
    for folder in (tmp_path / "results" / "tiny" / "1", runs / "tiny-1"):
        capsys.readouterr()
        assert call(reproduce, monkeypatch, *arguments) == 2
        out, said = capsys.readouterr()
        assert f"{folder} was made with training.optimizer.learning_rate 0.01, the row has 0.02 today" in said
        assert said.count("\n") == 1
        assert out == ""
        shutil.rmtree(folder)
    assert call(reproduce, monkeypatch, *arguments) == 0
    assert "learning-rate=0.02" in read_figures(tmp_path / "results" / "results.json")["tiny"][1].command


def test_files_of_data_are_the_same_by_any_name(reproduce: Any, tmp_path: Path) -> None:
    files = {"training.data.source": "npz", "training.data.train": ["data.npz"]}
    row = Row("tiny", "digits", "-", "-", ("goodness",), (1,), files)
    (tmp_path / "config.toml").write_text(
        '[training]\ndims = [64, 500, 500, 500]\nepochs = 60\nbatch_size = 50\nlabels = "append"\nnegative_lag = 24\n'
        "[training.optimizer]\nweight_decay = 0.001\n[training.data]\nvalidation = 97\ntest_count = 300\n"
        f'source = "npz"\ntrain = ["{Path("data.npz").absolute()}"]\n'
    )
    reproduce.check_config(row, 1, tmp_path)


@pytest.mark.parametrize(
    "place", sorted((SCRIPTS / "results").glob("*/*/config.toml")), ids=lambda path: "-".join(path.parts[-3:-1])
)
def test_what_is_kept_was_made_with_what_its_row_says(reproduce: Any, place: Path) -> None:
    reproduce.check_config(ROWS[place.parent.parent.name], int(place.parent.name), place.parent)
    assert not re.search(r"(^|\s)/\w", (place.parent / "log.txt").read_text(), re.MULTILINE)  # no place of that machine


def test_wrong_input(
    reproduce: Any, tiny: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(reproduce, monkeypatch, "hintn")
    assert "unknown row 'hintn'" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text('{"tiny": {"1": {"good')
    assert call(reproduce, monkeypatch, "tiny", "--runs", str(tmp_path / "runs")) == 2
    said = capsys.readouterr().err
    assert "results.json is damaged" in said
    assert "git restore" in said
    assert said.count("\n") == 1
    assert not list((tmp_path / "runs").iterdir())


def test_the_running_mean_of_losses(reproduce: Any, tmp_path: Path) -> None:
    from ffpipe.telemetry.metrics import write_metrics
    from ffpipe.telemetry.report import LayerRow

    rows = [LayerRow(step, layer, float(step + layer), 0.0) for step in (1, 2) for layer in (-1, 0, 1)]
    write_metrics(tmp_path / "metrics.parquet", rows, 1)
    assert reproduce.running_losses(tmp_path / "metrics.parquet") == [1.5, 2.0]


def test_the_machine_has_a_name_where_linux_says_nothing(reproduce: Any, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9\n")
    assert reproduce.machine(tmp_path / "cpuinfo").endswith(" cores of Abacus 9")
    assert reproduce.machine(tmp_path / "absent").partition(" cores of ")[2]

"""The sweep runs what is not done, skips what is, and writes the table that its figures say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """scripts/reproduce.py with a README and results of its own."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import reproduce as module

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{module.BEGIN}old\n{module.END}after\n", encoding="utf-8")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "FIGURES", tmp_path / "results" / "results.json")
    monkeypatch.setattr(module, "README", readme)
    return module


def call(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    module.main()


def test_a_row_is_run_kept_skipped_and_put_in_the_table(
    reproduce: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"training.epochs": 2, "execution.engine": "local", "execution.stages": 1, "execution.evaluate_every": 1}
    row = reproduce.Row("tiny", "digits", "two epochs", "9.9", ("goodness", "softmax"), (1, 2), fields)
    monkeypatch.setitem(reproduce.ROWS, "tiny", row)
    runs = str(tmp_path / "runs")
    call(reproduce, monkeypatch, "tiny", "--runs", runs)
    assert "done" not in capsys.readouterr().out
    call(reproduce, monkeypatch, "tiny", "--runs", runs, "--table")
    assert "tiny, seed 2: done" in capsys.readouterr().out
    figures = json.loads((tmp_path / "results" / "results.json").read_text())["tiny"]
    assert set(figures) == {"1", "2"}
    assert figures["1"]["command"].startswith("ffpipe train digits --seed 1")
    kept = tmp_path / "results" / "tiny" / "1"
    assert sorted(path.name for path in kept.iterdir()) == ["config.toml", "log.txt", "summary.json"]
    assert all(str(tmp_path) not in path.read_text() for path in kept.iterdir())
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    row = next(line for line in lines if "`tiny`" in line)
    worst = 100 * max(result["goodness"] for result in figures.values())
    assert f"(worst {worst:.2f} / " in row
    assert "2 seeds" in row
    assert "9.9" in row


def test_a_run_that_broke_off_is_resumed(reproduce: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ffpipe
    from ffpipe.telemetry.view import QuietView

    # This engine reports after every chapter, so that the wish comes in time.
    fields = {"training.epochs": 3, "execution.engine": "layerwise", "execution.chapter": 8}
    row = reproduce.Row("tiny", "digits", "three epochs", "-", ("goodness",), (1,), fields)
    interrupt = ffpipe.Interrupt()

    class Stop(QuietView):
        def report(self, report: Any) -> None:
            if report.step >= 10 and not interrupt.wished:
                interrupt.request()

    config = ffpipe.override(
        ffpipe.recipe("digits"), {**fields, "training.seed": 1, "execution.run_dir": str(tmp_path / "runs" / "tiny-1")}
    )
    with pytest.raises(ffpipe.Interrupted):
        ffpipe.train(config, Stop(), interrupt)
    monkeypatch.setitem(reproduce.ROWS, "tiny", row)
    call(reproduce, monkeypatch, "tiny", "--runs", str(tmp_path / "runs"))
    assert json.loads((tmp_path / "runs" / "tiny-1" / "summary.json").read_text())["status"] == "finished"
    assert "resume" not in reproduce.read_figures()["tiny"]["1"]["command"]


def test_wrong_input(reproduce: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(reproduce, monkeypatch, "hintn")
    assert "unknown row 'hintn'" in capsys.readouterr().err


def test_the_running_mean_of_losses(reproduce: Any, tmp_path: Path) -> None:
    from ffpipe.telemetry.metrics import write_metrics
    from ffpipe.telemetry.report import LayerRow

    rows = [LayerRow(step, layer, float(step + layer), 0.0) for step in (1, 2) for layer in (-1, 0, 1)]
    write_metrics(tmp_path / "metrics.parquet", rows, 1)
    assert reproduce.running_losses(tmp_path / "metrics.parquet") == [1.5, 2.0]


def test_the_table_of_lags_has_them_in_order(reproduce: Any) -> None:
    def result(goodness: float, epochs: float | None) -> dict[str, Any]:
        return {"1": {"goodness": goodness, "softmax": 0.02, "epochs_to_2_percent": epochs, "seconds": 90.0}}

    figures = {"hinton": result(0.0139, 28.0), "lag-256": result(0.03, None), "keras": result(0.01, 1.0)}
    assert reproduce.lines_of_lags(figures) == [
        ["16", "1.39 / 2.00", "28", "1.5 min"],
        ["256", "3.00 / 2.00", "-", "1.5 min"],
    ]
    reproduce.write_table({"hinton": {"1": figures["hinton"]["1"] | {"losses": None}}})
    assert "| 16 | 1.39 / 2.00 | 28 | 1.5 min |\n" in reproduce.README.read_text()

"""`ffpipe plan` says what a run would take, and starts none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffpipe.cli import main


@pytest.mark.parametrize("engine", ["ray", "local", "layerwise"])
def test_a_plan_has_a_row_for_each_process_and_the_time(
    engine: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "digits", "--engine", engine, "--stages", "3"]) == 0
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if "MiB" in line and "│" in line]
    assert len(rows) == (1 if engine == "local" else 3)
    assert f"engine {engine}, 3 stage(s)" in said
    assert "examples/s" in said
    assert ("disk for parked stages" in said) == (engine == "layerwise")
    assert ("object store" in said) == (engine == "ray")
    assert not list(tmp_path.iterdir())


def test_a_plan_says_what_a_budget_would_choose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "digits", "--engine", "local", "--memory-budget", "3GiB"]) == 0
    assert "within the budget of 3.00 GiB" in capsys.readouterr().out


def test_a_plan_refuses_what_a_run_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "digits", "--stages", "9"]) == 2
    assert "execution.stages is 9" in capsys.readouterr().err
    assert main(["plan", "digits", "--backprop"]) == 2
    assert "unknown option" in capsys.readouterr().err

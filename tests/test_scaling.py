"""The sweep measures what is not known, keeps what it measured, and writes it down in three forms."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scaling
from hosts import NotAllowed
from scaling_run import Point

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of its results."""
    results = tmp_path / "results"
    monkeypatch.setattr(scaling, "RESULTS", results)
    for name in ("KNOWN", "CSV", "PLOT"):
        monkeypatch.setattr(scaling, name, results / getattr(scaling, name).name)
    return results


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    scaling.main()


def test_a_point_is_measured_beside_its_forecast_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [Point("set", 2, 2, steps=40, rounds=1, milliseconds=10.0, width=50), Point("real", 2, 1, 28, 1, width=50)]
    monkeypatch.setattr(scaling, "PARTS", {"weak": points})
    call(monkeypatch, "weak")
    with scaling.CSV.open() as file:
        set_time, real = csv.DictReader(file)
    assert (set_time["layers"], set_time["stages"], real["layers"]) == ("2 of 10 ms", "2", "2 real")
    # Layers of a set time cannot be faster than that, whatever else this machine does.
    assert 0.2 < float(set_time["efficiency"]) <= 1.001
    assert float(set_time["forecast"]) == pytest.approx(100 / 0.010, rel=0.2)
    assert float(real["examples_per_second"]) > 0
    assert scaling.PLOT.stat().st_size > 1000
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["points"] == 2

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(subprocess, "run", fail)
    call(monkeypatch, "weak")
    with pytest.raises(AssertionError, match="measured again"):
        call(monkeypatch, "weak", "--again")
    assert folder.exists()


def test_a_point_that_fails_ends_the_sweep_and_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PARTS", {"weak": [Point("real", 1, 2, 28, 1, width=50)]})
    with pytest.raises(SystemExit, match="there are 1 layers"):
        call(monkeypatch, "weak")
    assert not scaling.CSV.exists()


def test_a_part_that_cannot_be_run_here_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise NotAllowed("made of network namespaces, which takes root")

    monkeypatch.setattr(scaling, "make_hosts", refuse)
    with pytest.raises(SystemExit, match="1"):
        call(monkeypatch, "link")
    assert "link: cannot be run here, hosts are made of network namespaces, which takes root" in capsys.readouterr().out
    assert not folder.exists()


def test_wrong_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, "week")
    assert "unknown part 'week'" in capsys.readouterr().err

"""A run of version 0.1.0, interrupted after step 374 of 840 on the digits: today's ffpipe shows it, tests it and ends
it with the weights that 0.1.0 came to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import digests
import pytest

import ffpipe
from ffpipe.commands.cli import main

KEPT = Path(__file__).parent / "runs" / "0.1.0"
# By 0.1.0 itself, which went on with it on this kind of machine.
MACHINE, ERRORS = "AuthenticAMD family 25 AVX2, torch 2.13.0+cpu", {"goodness": 250 / 300, "softmax": 51 / 300}
DIGEST = "5caef7e119517bb53e4c2fcb1f241d6ab313d39158ef8b81b975004fc1b86669"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "run"))


def test_it_is_shown_and_tested(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run)]) == 0
    said = capsys.readouterr().out
    assert "trained   digits: 64-16-10, hard negatives" in said
    assert "374 saved, of 60 epochs" in said
    assert main(["evaluate", str(run)]) == 0
    assert "test error: 91.67% by goodness, 24.00% by softmax (300 examples)" in capsys.readouterr().out


def test_its_config_trains_today(run: Path, tmp_path: Path) -> None:
    config = str(run / "config.toml")
    assert main(["train", config, "--epochs", "1", "--run-dir", str(tmp_path / "new")]) == 0
    assert json.loads((tmp_path / "new" / "summary.json").read_text())["status"] == "finished"


def test_it_goes_on_to_the_weights_of_then(run: Path) -> None:
    result = ffpipe.resume(run)
    assert result.summary["status"] == "finished"
    if digests.kind_of_machine() == MACHINE:
        assert (result.weights_sha256, result.test_errors) == (DIGEST, ERRORS)

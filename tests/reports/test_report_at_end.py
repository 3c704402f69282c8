"""`ffpipe train --report` in a process of its own: the page is there when the run has ended."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import warm
from reported import Elements

pytest.importorskip("matplotlib")


def test_it_is_there_when_a_run_has_ended(tmp_path: Path) -> None:
    small = ["--engine", "local", "--epochs", "2", "--train-limit", "200", "--run-dir", "run"]
    done = subprocess.run(
        [warm.python(), "-m", "ffpipe", "train", "digits", *small, "--report"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = tmp_path / "run" / "report.html"
    assert done.stdout.splitlines()[-1] == f"wrote {report}"
    page = Elements(report.read_text())
    assert len(page.pictures) > 5
    for section in ("Errors", "Blocks in training", "Answers", "Receptive fields", "Where time went", "Memory"):
        assert section in page.text
    # The figure that training printed is the one that the page shows.
    error = re.search(r"^test error: ([0-9.]+)% by goodness", done.stdout, re.MULTILINE)
    assert error is not None
    assert re.search(rf"{re.escape(error[1])}0*\s*%", page.text)
    assert re.search(r"^epochs = 2$", page.text, re.MULTILINE)

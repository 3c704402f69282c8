"""`ffpipe train --report` and `resume --report` in processes of their own: the page is there when the run has ended."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import warm

pytest.importorskip("matplotlib")

TRAIN = ("train", "digits", "--engine", "local", "--epochs", "2", "--train-limit", "200", "--run-dir", "run")


class Page(HTMLParser):
    """Headings and pictures of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pictures, self.text = 0, ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += tag == "svg" or ("class", "png") in attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def ffpipe(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [warm.python(), "-m", "ffpipe", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_there_when_a_run_has_ended(tmp_path: Path) -> None:
    said = ffpipe(*TRAIN, "--report", folder=tmp_path)
    report = tmp_path / "run" / "report.html"
    assert said.splitlines()[-1] == f"wrote {report}"
    page = Page(report.read_text())
    assert page.pictures > 5
    for section in ("Errors", "Blocks in training", "Answers", "Receptive fields", "Where time went", "Memory"):
        assert section in page.text
    # The figure that training printed is the one that the page shows.
    error = re.search(r"^test error: ([0-9.]+)% by goodness", said, re.MULTILINE)
    assert error is not None
    assert re.search(rf"{re.escape(error[1])}0*\s*%", page.text)
    before = report.read_text()
    assert re.search(r"^epochs = 2$", page.text, re.MULTILINE)
    said = ffpipe("resume", "run", "--epochs", "3", "--report", folder=tmp_path)
    assert said.splitlines()[-1] == "wrote run/report.html"
    assert report.read_text() != before

"""README and docs/ show what happens: every block of a page is run, in order, in one folder (fenced.py)."""

from __future__ import annotations

import io
import linecache
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import warm
from fenced import Fence, difference, fences
from repository import REPOSITORY

from ffpipe.config.fields import from_toml, leaves

PAGES = {
    path.relative_to(REPOSITORY).as_posix(): fences(path.read_text(encoding="utf-8"))
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
}
# A machine that does other work besides.
SECONDS = 280
# Variables through which a command may not learn from outside: a terminal's size, copies of data, a cluster.
LEFT_OUT = ("FFPIPE_DATA", "RAY_ADDRESS", "COLUMNS", "LINES")

# $ADDED is what runs of this block have added to them, unless they name it themselves.
PROGRAM = """#!/bin/sh
case "$*" in
*--engine*) ;;
train* | resume*) set -- "$@" $ADDED ;;
esac
exec "{python}" -m ffpipe "$@"
"""


def blocks(page: str) -> Iterator[Fence]:
    """Yield the blocks of a page that are run, or kept as files."""
    return (fence for fence in PAGES[page] if fence.is_run or "file" in fence.said)


def is_long(page: str) -> bool:
    return any("long" in fence.said for fence in PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    faults = [f"{page}:{fence.line}: {fence.fault}" for fence in PAGES[page] if fence.fault]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES)
def test_options_that_a_page_names_are_there(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = re.findall(r"--((?:training|execution)\.[\w.-]*\w)", text)
    known = {leaf.name.replace("_", "-") for leaf in leaves()}
    assert not {name for name in named if name not in known and not any(f.startswith(f"{name}.") for f in known)}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:cluster|docs|examples|ffpipe|scripts|tests)/[a-z0-9_./-]+)`", text)
    assert not [name for name in named if not (REPOSITORY / name).exists()]


def test_the_readme_is_one_screen() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES)
def test_toml_is_of_a_config(page: str) -> None:
    for fence in PAGES[page]:
        if fence.language == "toml":
            from_toml(fence.text, where=f"{page}:{fence.line}")


@pytest.mark.parametrize("page", [page for page in PAGES if any("long" not in fence.said for fence in blocks(page))])
def test_blocks_do_what_the_page_shows(page: str, folder: Path) -> None:
    Reader(page, folder).read(fence for fence in blocks(page) if "long" not in fence.said)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if is_long(page)])
def test_long_blocks_do_what_the_page_shows(page: str, folder: Path) -> None:
    Reader(page, folder).read(blocks(page))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_put_back: None) -> Path:
    """Make a folder for the blocks of a page, with the examples in it; `ffpipe` is that of this repository."""
    import torch

    torch.set_num_threads(1)
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    programs = tmp_path.with_name(tmp_path.name + "-bin")
    programs.mkdir()
    (programs / "ffpipe").write_text(PROGRAM.format(python=warm.python()))
    (programs / "ffpipe").chmod(0o755)
    (programs / "python").symlink_to(warm.python())
    for name in LEFT_OUT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ADDED", "")  # so that it is put back
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Reader:
    """A reader of a page who does what it says, block after block. Names bound in Python last to the page's end."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def read(self, found: Iterator[Fence]) -> None:
        for fence in found:
            where = f"{self.page}:{fence.line}"
            os.environ["ADDED"] = "" if "ray" in fence.said else "--engine local"
            for command in fence.said.get("run", ()):
                self.run(command, where, 0, [])
            if "file" in fence.said:
                self.keep(fence, where)
            elif fence.language == "python":
                self.python(fence.text, where)
            else:
                commands = list(fence.commands()) if fence.language == "console" else [(fence.text, [])]
                last = int(fence.said.get("status", ["0"])[0])
                for index, (command, shown) in enumerate(commands):
                    self.run(command, where, last if index == len(commands) - 1 else 0, shown)

    def run(self, command: str, where: str, status: int, shown: list[str]) -> None:
        """Run a line of the console and hold what it prints against what is shown below it."""
        done = subprocess.run(
            ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
        )
        assert done.returncode == status, f"{where}: exit status {done.returncode} of {command}\n{done.stdout}"
        differs = difference(shown, done.stdout)
        assert not differs, f"{where}: {command}: {differs}"

    def python(self, text: str, where: str) -> None:
        """Run a block of Python; its lines are kept, so that a function's source can be had."""
        linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)
        with redirect_stdout(io.StringIO()):
            exec(compile(text, where, "exec"), self.names)

    def keep(self, fence: Fence, where: str) -> None:
        """Keep a block as the file that it says it is."""
        (name,) = fence.said["file"]
        path, ours = self.folder / name, REPOSITORY / name
        if ours.exists():
            assert fence.text == ours.read_text(encoding="utf-8"), f"{where}: {name} is another in the repository"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fence.text, encoding="utf-8")

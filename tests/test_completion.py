"""Completion of a line of a shell, asked for as argcomplete does: in a process of its own, through its environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffpipe.commands.cli import COMMANDS, main
from ffpipe.commands.options import settable
from ffpipe.config.recipes import RECIPES

ASK = "import sys; from ffpipe.commands.cli import main; sys.exit(main([]))"
SEPARATOR = "\v"


def completed(line: str, folder: Path, *, code: str = ASK) -> list[str]:
    """Return the words that the last one of a line may become."""
    answer = folder.with_name(f"{folder.name}-answer")
    asks = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_IFS": SEPARATOR,
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **asks},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return [word for word in answer.read_text().split(SEPARATOR) if word]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a working folder with two runs, a config, a picture, a hidden file and a folder."""
    folder = tmp_path_factory.mktemp("completion") / "work"
    for name in ("runs/one", "runs/other", "runs/empty", "pictures"):
        (folder / name).mkdir(parents=True)
    for name in ("runs/one/config.toml", "runs/other/config.toml", "mine.toml", "three.png", ".hidden", "--odd"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ffpipe ", list(COMMANDS)),
        ("ffpipe pr", ["predict"]),
        ("ffpipe train mn", ["mnist", "mnist-cnn"]),
        pytest.param("ffpipe train mi", ["mine.toml"], marks=pytest.mark.long),
        ("ffpipe train --ep", ["--epochs"]),
        ("ffpipe train --training.schedule ", list(settable()["training.schedule"].choices)),
        pytest.param("ffpipe train --training.schedule one", ["onecycle"], marks=pytest.mark.long),
        ("ffpipe train mnist --engine ", ["ray", "local", "layerwise"]),
        pytest.param("ffpipe train --device cu", ["cuda"], marks=pytest.mark.long),
        pytest.param("ffpipe train --execution.trace ", ["true", "false"], marks=pytest.mark.long),
        ("ffpipe train --epochs ", []),
        ("ffpipe train --data p", ["pictures/"]),
        ("ffpipe data di", ["digits", "digits-cnn"]),
        pytest.param("ffpipe data thr", ["three.png"], marks=pytest.mark.long),
        pytest.param("ffpipe train --model ./t", ["./three.png"], marks=pytest.mark.long),
        pytest.param("ffpipe resume ru", ["runs/"], marks=pytest.mark.long),
        ("ffpipe resume runs/", ["runs/empty/", "runs/one", "runs/other"]),
        pytest.param("ffpipe show runs/o", ["runs/one", "runs/other"], marks=pytest.mark.long),
        ("ffpipe evaluate runs/one --split t", ["test", "train"]),
        pytest.param("ffpipe predict runs/one th", ["three.png"], marks=pytest.mark.long),
        ("ffpipe predict runs/one three.png --readout ", ["softmax", "goodness", "last", "sum"]),
        pytest.param("ffpipe runs r", ["runs/"], marks=pytest.mark.long),
        ("ffpipe completion ", ["bash", "zsh", "fish"]),
        ("ffpipe train --execution.run-dir nowhere/", []),
    ],
)
def test_a_line_goes_on(line: str, words: list[str], folder: Path) -> None:
    assert completed(line, folder) == words


def test_all_recipes_are_offered_beside_what_lies_here(folder: Path) -> None:
    assert completed("ffpipe train ", folder) == [*RECIPES, "mine.toml", "pictures/", "runs/"]


def test_options_come_where_one_begins(folder: Path) -> None:
    found = completed("ffpipe train --", folder)
    assert {"--epochs", "--training.epochs", "--dry-run", "--help-all"} <= set(found)
    assert len(found) == len(set(found)) > 100


def test_an_answer_does_not_wait_for_torch(folder: Path) -> None:
    """The answer ends the process, with all that was imported until then."""
    code = (
        "import atexit, sys\nfrom ffpipe.commands.cli import main\n"
        "def loaded():\n"
        "    found = {'torch', 'ray', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "    open('loaded', 'w').write(' '.join(found))\n"
        "atexit.register(loaded)\nmain([])\n"
    )
    assert completed("ffpipe train mnist-", folder, code=code) == ["mnist-cnn"]
    assert (folder / "loaded").read_text() == ""
    (folder / "loaded").unlink()


@pytest.mark.parametrize(("shell", "says"), [("bash", "complete "), ("zsh", "#compdef ffpipe"), ("fish", "complete ")])
def test_what_a_shell_is_given(shell: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert says in out
    assert "ffpipe" in out
    if program := shutil.which(shell):
        subprocess.run([program, "-n", "/dev/stdin"], input=out, text=True, timeout=60, check=True)


def test_bash_completes_a_line(folder: Path, tmp_path: Path) -> None:
    """From the code that it is given to the words, in bash itself."""
    (tmp_path / "ffpipe").write_text(f"#!/bin/sh\nexec '{sys.executable}' -m ffpipe \"$@\"\n")
    (tmp_path / "ffpipe").chmod(0o755)
    script = """
        eval "$(ffpipe completion bash)"
        COMP_LINE="ffpipe train --engine l" COMP_POINT=23 COMP_TYPE=9 COMP_WORDS=(ffpipe train --engine l) COMP_CWORD=3
        _python_argcomplete ffpipe
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert [word.strip() for word in done.stdout.splitlines()] == ["local", "layerwise"]

"""The surroundings of a command: the working folder, Ctrl-C before there is anything to take down, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from covering import in_turn, only
from repository import REPOSITORY

from ffpipe.commands.signals import LEFT_ALONE, interrupts

# Sends a signal to the process as soon as this module is looked for.
INTERRUPTER = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, *_):
        if name == os.environ.get("INTERRUPT_AT"):
            signal.raise_signal(getattr(signal, os.environ["INTERRUPT_BY"]))

sys.meta_path.insert(0, Interrupter())
"""
# Modules of the standard library, of what ffpipe needs, and of what only some of it needs.
SHADOWS = ("calendar", "csv", "msgspec", "numpy", "psutil", "pyarrow", "ray", "safetensors", "torch", "xxhash", "yaml")


def ffpipe(*arguments: str, cwd: Path, path: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own. path: folder that goes before all others in its path."""
    folders = [str(each) for each in (path, REPOSITORY) if each]
    return subprocess.run(
        [sys.executable, "-m", "ffpipe", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("moment", "by"), in_turn(("torch", "ffpipe.commands.cli", "ray", "torch.nn"), ("SIGINT", "SIGTERM", "SIGHUP"))
)
def test_signals_while_modules_are_imported(moment: str, by: str, here: Path) -> None:
    (here / "path").mkdir()
    (here / "path" / "sitecustomize.py").write_text(INTERRUPTER)
    done = ffpipe("train", "--run-dir", "run", cwd=here, path=here / "path", INTERRUPT_AT=moment, INTERRUPT_BY=by)
    # Ray is imported when it is about to start.
    said = "starting 2 stages with Ray\n" if moment == "ray" else ""
    assert (done.returncode, done.stdout, done.stderr) == (130, said, "ffpipe: interrupted\n")
    assert [path.name for path in here.iterdir()] == ["path"]


# Sends a signal to the process as it writes a file: all of it is written, and does not have its name yet.
AT_THE_FILE = """
import os, signal

def fsync(handle):
    signal.raise_signal(getattr(signal, os.environ["INTERRUPT_BY"]))

os.fsync = fsync
"""


@pytest.mark.parametrize(
    ("out", "by"), in_turn(("out.csv", "out.safetensors"), ("SIGTERM", "SIGHUP", "SIGINT", "SIGHUP ignored"))
)
def test_signals_leave_no_half_written_file(out: str, by: str, here: Path, strangers_run: Path) -> None:
    (here / "path").mkdir()
    (here / "path" / "sitecustomize.py").write_text(AT_THE_FILE)
    np.save(here / "path" / "one.npy", np.zeros((8, 8)))
    command = ["export", out] if out.endswith(".safetensors") else ["predict", "path/one.npy", "--out", out]
    ignored = by.endswith("ignored")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        done = ffpipe(
            command[0], str(strangers_run), *command[1:], cwd=here, path=here / "path", INTERRUPT_BY=by.split()[0]
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (done.returncode, done.stderr) == ((0, "") if ignored else (130, "ffpipe: interrupted\n"))
    assert sorted(path.name for path in here.iterdir()) == [*([out] if ignored else []), "path"]


@pytest.mark.parametrize("number", sorted(signal.valid_signals() - LEFT_ALONE))
def test_signals_that_would_end_the_program_ask_the_run_to_end(number: int) -> None:
    before = signal.getsignal(number)
    told: list[int] = []
    signal.signal(number, signal.SIG_DFL)
    try:
        with interrupts() as interrupt:
            interrupt.goes_to(lambda: told.append(number))
            signal.raise_signal(number)
            assert told == [number]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            with interrupt.until_the_end():
                pass
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_signals_with_the_handler_of_the_installed_command_ask_the_run_to_end() -> None:
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with interrupts():
            assert signal.getsignal(signal.SIGHUP) != signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_that_are_heard_or_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with interrupts():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("command", [["train"], ["plan"], ["evaluate", "run"]])
def test_a_working_folder_that_has_been_removed(command: list[str], here: Path) -> None:
    line = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m ffpipe {' '.join(command)}"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=here, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    says = "ffpipe: the working folder has been removed: change to one that exists\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


@pytest.mark.parametrize("engine", only(["local"], ["local", "ray"]))
def test_nothing_is_imported_from_the_working_folder(engine: str, here: Path) -> None:
    """But for the model that the user names, which finds its neighbours."""
    ran = here / "ran"
    for name in SHADOWS:
        (here / f"{name}.py").write_text(
            f"open({str(ran)!r}, 'a').write(__name__ + ' ')\nraise ImportError('a shadow')\n"
        )
    (here / "models").mkdir()
    (here / "models" / "neighbour.py").write_text("from torch import nn\nlayer = nn.Conv2d\n")
    (here / "models" / "mine.py").write_text(
        "import neighbour\n\ndef blocks():\n    return [neighbour.layer(1, 4, 3), neighbour.layer(4, 4, 3)]\n"
    )
    with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:  # short enough for Ray's sockets
        options = ["--epochs", "1", "--train-limit", "100", "--model", "models/mine.py:blocks"]
        done = ffpipe(
            "train", "digits-cnn", "--engine", engine, "--run-dir", "run", *options, cwd=here, TMPDIR=temporary
        )
    assert not ran.exists(), ran.read_text()
    assert done.returncode == 0, done.stderr

"""A small run folder to damage, ways to damage it, and the bounds within which what came of it must be read."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import commands
import pytest
import tomli_w

import ffpipe
from ffpipe.runs.view import View

# Beyond what the process has when a case begins. A case may train a small network.
MORE_BYTES = 512 << 20
SECONDS = 30.0
LAYER, HEAD, MANIFEST = "layer-001.safetensors", "head.safetensors", "manifest.json"


def make_run(folder: Path) -> Path:
    """Make a finished run of 28 steps with snapshots of steps 20 and 28."""
    fields = {
        "training.epochs": 1,
        "training.dims": [64, 20, 20, 20],
        "training.data.validation": 0,
        "training.data.test_count": 30,
        "training.data.train_limit": 1400,
        "training.head_optimizer.kind": "Adam",
        "training.negative_lag": 3,
        "execution.engine": "local",
        "execution.stages": 1,
        "execution.evaluate_every": 0,
        "execution.snapshot_steps": 20,
        "execution.back_off": 0,
        "execution.run_dir": str(folder),
    }
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))
    return folder


def fresh(run: Path, to: Path) -> Path:
    """Copy the run in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(run, to))


def newest(run: Path) -> Path:
    return max(run.glob("checkpoints/*"))


class Notes(View):
    """A view that keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def bounded() -> Iterator[None]:
    """Allow no more than MORE_BYTES and SECONDS for what is within."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    status = Path("/proc/self/status").read_text().split("VmData:")[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_DATA, (int(status.split()[0]) * 1024 + MORE_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def sign(path: Path) -> None:
    """Make the manifest agree with a file."""
    manifest = path.with_name(MANIFEST)
    tree, data = json.loads(manifest.read_text()), path.read_bytes()
    tree["files"][path.name] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(tree))


def refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Refuse within bounds, in one line that holds `says`."""
    with bounded():
        commands.refused(arguments, says, capsys)


def set_field(path: Path, name: str, value: Any) -> None:
    """Set one field of a config.toml or of a .json file; name: its keys, with slashes between them."""
    text = path.read_text()
    tree: dict[str, Any] = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    *folders, last = name.split("/")
    branch = tree
    for folder in folders:
        branch = branch[folder]
    branch[last] = value
    path.write_text(tomli_w.dumps(tree) if path.suffix == ".toml" else json.dumps(tree))


def passed_over(run: Path, name: str) -> None:
    """Resume says that it passes over this snapshot, and comes to the end from the one before."""
    view = Notes()
    with bounded():
        ffpipe.resume(run, view=view)
    assert len(view.notes) == 1
    assert name in view.notes[0]
    assert "trying the snapshot before it" in view.notes[0]


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)

"""A run folder from a stranger: what is wrong is said in one line, and nothing in it runs.

Inputs that broke something once, or would if a check went. Configs and snapshots have files of their own.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from strangers import HEAD, LAYER, MANIFEST, Notes, bounded, endless, loop, newest, refused, sign

import ffpipe
from ffpipe.commands.cli import main


@pytest.mark.parametrize("put", [os.mkfifo, endless, Path.mkdir, loop])
def test_files_that_are_none(put: Callable[[Path], None], copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (MANIFEST, LAYER, HEAD):
        path = newest(copy) / name
        data = path.read_bytes()
        path.unlink()
        put(path)
        # A snapshot without a manifest is none, so the one before is read.
        for older in copy.glob("checkpoints/step-00000020/manifest.json"):
            older.unlink()
        refused(["predict", str(copy), str(copy / "a.npy")], name if name != MANIFEST else "no whole snapshot", capsys)
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(data)
    path = copy / "config.toml"
    path.unlink()
    put(path)
    refused(["evaluate", str(copy)], "config.toml", capsys)
    refused(["resume", str(copy)], "config.toml", capsys)
    refused(["train", str(path)], "config.toml", capsys)


def test_snapshots_in_no_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").write_bytes(b"")
    for command in ("evaluate", "resume"):
        refused([command, str(copy)], "checkpoints, the place of the snapshots, cannot be read", capsys)


BAD_PASTS = {
    "absent": None,
    "empty": b"",
    "cut": b'{"rows": [',
    "deep": b'{"x":' + b"[" * 100_000,
    "no UTF-8": b'{"evaluations": [{"split": "\xff"}]}',
    "no such field": b'{"rows": [{}]}',
    "a list of something else": b'{"evaluations": [1]}',
    "a step beyond all": b'{"rows": [{"step": 1e30, "layer": 0, "loss": 0, "pair_errors": 0}]}',
    "a layer beyond all": b'{"rows": [{"step": 1, "layer": 99999999999, "loss": 0, "pair_errors": 0}]}',
    "no number": b'{"rows": [{"step": 1, "layer": 0, "loss": NaN, "pair_errors": 0}]}',
    "time that runs back": b'{"train_seconds": -1}',
    "too large": b" " * (65 << 20),
}


@pytest.mark.parametrize("kind", BAD_PASTS)
def test_a_past_that_cannot_be_read_is_said_and_stops_nothing(kind: str, copy: Path) -> None:
    path, data = copy / "past.json", BAD_PASTS[kind]
    weights = json.loads((copy / "summary.json").read_text())["weights_sha256"]
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    view = Notes()
    with bounded():
        result = ffpipe.resume(copy, view=view)
    assert len(view.notes) == 1
    assert str(path) in view.notes[0]
    assert "up to step 28 are lost" in view.notes[0]
    assert result.weights_sha256 == weights
    assert ffpipe.resume(copy).summary["evaluations"] == result.summary["evaluations"]


@pytest.mark.parametrize("put", [os.mkfifo, endless, Path.mkdir])
def test_a_past_that_is_no_file(put: Callable[[Path], None], copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "past.json"
    path.unlink()
    put(path)
    with bounded():
        status = main(["resume", str(copy)])
    assert status == (1 if path.is_dir() else 0)
    out, err = capsys.readouterr()
    assert f"warning: cannot read {path}: " in out
    assert "metrics and evaluations up to step 28 are lost" in out
    assert err.count("\n") == status


def test_metrics_and_summary_are_written_anew_where_they_are_damaged(copy: Path) -> None:
    metrics = pq.read_table(copy / "metrics.parquet")
    for name in ("metrics.parquet", "summary.json"):
        (copy / name).write_bytes(b"PAR1" + bytes(100))
    view = Notes()
    ffpipe.resume(copy, view=view)
    assert view.notes == []
    assert pq.read_table(copy / "metrics.parquet") == metrics
    assert json.loads((copy / "summary.json").read_text())["status"] == "finished"


class Payload:
    """A class that runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_run_folder_is_unpickled(copy: Path) -> None:
    ran = copy / "ran"
    files = [path for path in copy.rglob("*") if path.is_file()]
    torch.save({"weight": Payload(ran)}, copy / "payload")
    for payload in (pickle.dumps(Payload(ran)), (copy / "payload").read_bytes()):
        for path in files:
            data = path.read_bytes()
            path.write_bytes(payload)
            if path.suffix == ".safetensors":
                sign(path)
            for command in (["evaluate", str(copy)], ["resume", str(copy)], ["train", str(copy / "config.toml")]):
                if path.name == "config.toml" or command[0] != "train":
                    assert main(command) in (0, 2)
            assert not ran.exists(), path
            path.write_bytes(data)
    pickle.loads(payload if payload[:2] != b"PK" else pickle.dumps(Payload(ran)))
    assert ran.exists(), "the payload is one"


def test_a_trace_is_not_written_through_a_link(copy: Path) -> None:
    mine = copy / "mine"
    mine.write_text("precious")
    (copy / "trace.json").symlink_to(mine)
    ffpipe.resume(copy, {"execution.trace": True, "training.epochs": 2})
    assert mine.read_text() == "precious"
    assert json.loads((copy / "trace.json").read_text())


def test_events_are_not_written_through_a_link(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    mine = tmp_path / "mine"
    mine.mkdir()
    (copy / "tensorboard").symlink_to(mine)
    view = Notes()
    result = ffpipe.resume(copy, {"execution.tensorboard": True, "training.epochs": 2}, view=view)
    assert result.summary["status"] == "finished"
    assert list(mine.iterdir()) == []
    (said,) = [note for note in view.notes if "callback" in note]
    assert f"{copy / 'tensorboard'} is a link, which is not written through: remove it" in said


def test_names_of_files_are_printed_escaped(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are not UTF-8 and those that a terminal would obey, in what went well and in what did not."""
    monkeypatch.chdir(copy)
    names = ["c\x1b]0;owned\x07\x1b[31m.npy", "b\udcff.npy"]
    for name in names:
        np.save(copy / name, np.zeros((8, 8), np.uint8))
    assert main(["predict", str(copy), *names]) == 0
    assert main(["export", str(copy), "\x1b[2J\udcff.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:-1] for line in lines[:2]] == [r"c\x1b]0;owned\x07\x1b[31m.npy: ", r"b\udcff.npy: "]
    assert lines[2] == r"wrote \x1b[2J\udcff.safetensors"
    refused(["predict", str(copy), "\x1b[2J.npy"], r"\x1b[2J.npy", capsys)


def test_what_an_output_has_no_letters_for_is_written_as_its_number(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["train", str(copy / "config.toml"), "--run-dir", str(copy / "größe")]) == 0
    output.seek(0)
    assert output.read().splitlines()[-1] == f"run folder: {copy}/gr\\xf6\\xdfe"

"""Data that a person gives to the command: their own, spoilt, cut short, or out of reach."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from commands import refused

from ffpipe.commands.cli import main
from ffpipe.config.fields import override, read_config, to_toml


def write_npz(path: Path, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """Write a data set as a file; return the options that train on it."""
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    features = int(np.prod(images.shape[1:]))
    data = ["--training.data.source", "npz", "--training.data.train", str(path), "--training.data.validation", "0"]
    counts = ["--training.data.test-count", "0", "--training.batch-size", "10", "--training.negative-lag", "3"]
    dims = ["--engine", "local", "--stages", "1", "--epochs", "1", "--execution.evaluate-every", "0"]
    return ["train", *data, *counts, *dims, "--training.dims", str(features), "12", "10"]


def some_images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.random((60, 4, 4), dtype=np.float32), np.arange(60) % 3


def test_own_data_from_npz_trains(here: Path) -> None:
    assert main([*write_npz(here / "mine.npz", *some_images()), "--run-dir", "run"]) == 0
    assert json.loads((here / "run" / "summary.json").read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("spoil", "says"),
    [("nan", "NaN"), ("cut", "mine.npz"), ("absent", "mine.npz")],
)
def test_spoilt_data(spoil: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = some_images()
    if spoil == "nan":
        images[5, 2, 2] = np.nan
    path = here / "mine.npz"
    arguments = write_npz(path, images, labels)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-400])
    if spoil == "absent":
        path.unlink()
    before = sorted(here.iterdir())
    refused(arguments, says, capsys)
    assert sorted(here.iterdir()) == before


def test_a_truncated_copy_of_mnist_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "mnist"
    folder.mkdir()
    data = struct.pack(">IIII", 2051, 60_000, 28, 28) + bytes(1000)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    refused(["train", "mnist", "--data-dir", str(here)], "train-images-idx3-ubyte.gz", capsys)


def test_a_folder_that_is_gone_is_named_by_its_setting(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new run, and one whose config has no folder, or that which the variable named when the run was begun."""
    gone = here / "gone"
    assert main([*write_npz(here / "mine.npz", *some_images()), "--run-dir", "run"]) == 0
    monkeypatch.setenv("FFPIPE_DATA", str(gone))
    refused(["train", "mnist"], f"FFPIPE_DATA is {gone}, but", capsys)
    refused(["train", "mnist", "--data-dir", "other"], f"execution.data_dir is {here / 'other'}, but", capsys)
    config = read_config(here / "run" / "config.toml")
    for data_dir, setting in (("", "FFPIPE_DATA"), (str(gone), "execution.data_dir (FFPIPE_DATA)")):
        of_mnist = {"training.data.source": "mnist", "training.data.train": [], "execution.data_dir": data_dir}
        (here / "run" / "config.toml").write_text(to_toml(override(config, of_mnist)))
        for command in ("evaluate", "resume"):
            refused([command, "run"], f"ffpipe: {setting} is {gone}, but MNIST's", capsys)
        refused(["evaluate", "run", "--data-dir", "other"], f"execution.data_dir is {here / 'other'}, but", capsys)


def test_a_download_that_no_mirror_answers(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("FFPIPE_CACHE", str(here / "cache"))
    monkeypatch.setenv("FFPIPE_MNIST_MIRRORS", f"http://127.0.0.1:{port}/")
    refused(["train", "mnist"], f"http://127.0.0.1:{port}/", capsys)
    assert not [path for path in (here / "cache").rglob("*") if path.is_file()]

"""Snapshots are whole or absent, do not depend on the partition, and are refused when they were touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ffpipe import checkpoint
from ffpipe.checkpoint import Input
from ffpipe.errors import UserError
from ffpipe.telemetry.report import WrittenFile

TAKES = Input(shape=(2, 2), width=4, classes=2)
STATE = {"weight": torch.arange(8.0).view(4, 2), "bias": torch.zeros(2)}
SHAPES = {"weight": (4, 2), "bias": (2,)}


def write(checkpoints: Path, step: int, name: str) -> WrittenFile:
    folder = checkpoint.snapshot_folder(checkpoints, step)
    return checkpoint.write_tensors(folder, step, name, STATE, checkpoint.weights_digest(STATE))


def whole(checkpoints: Path, step: int, keep: int = 2) -> Path:
    files = [write(checkpoints, step, name) for name in ("layer-000.safetensors", "head.safetensors")]
    checkpoint.write_manifest(checkpoints, step, files, TAKES, keep)
    return checkpoint.snapshot_folder(checkpoints, step)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = whole(tmp_path, 30)
    manifest = checkpoint.read_manifest(folder)
    assert manifest.step == 30
    assert manifest.input == TAKES
    state = checkpoint.read_tensors(folder, manifest, "layer-000.safetensors", SHAPES)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def test_without_a_manifest_there_is_no_snapshot(tmp_path: Path) -> None:
    write(tmp_path, 30, "layer-000.safetensors")
    assert checkpoint.whole_snapshots(tmp_path) == []


def test_the_newest_are_kept_and_an_unfinished_one_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, 35, "layer-000.safetensors")
    for step in (10, 20, 30, 40):
        whole(tmp_path, step)
    assert [path.name for path in checkpoint.whole_snapshots(tmp_path)] == ["step-00000030", "step-00000040"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000030", "step-00000035", "step-00000040"]


def test_the_digest_is_of_the_weights_in_layer_order_whoever_reports_first() -> None:
    digests = {"layer-000.safetensors": "a", "layer-010.safetensors": "c", "layer-002.safetensors": "b"}
    backwards = dict(reversed(digests.items()))
    assert checkpoint.combined_digest({**digests, "head.safetensors": "d"}) == checkpoint.combined_digest(
        {"head.safetensors": "d", **backwards}
    )


@pytest.mark.parametrize("change", ["value", "name", "shape", "sign of zero"])
def test_any_change_of_the_weights_changes_the_digest(change: str) -> None:
    other = {name: tensor.clone() for name, tensor in STATE.items()}
    if change == "value":
        other["weight"][3, 1] = torch.nextafter(other["weight"][3, 1], torch.tensor(9.0))
    elif change == "name":
        other["offset"] = other.pop("bias")
    elif change == "shape":
        other["weight"] = other["weight"].view(2, 4)
    else:
        other["bias"][0] = -0.0
    assert checkpoint.weights_digest(other) != checkpoint.weights_digest(STATE)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [({"weight": (4, 3)}, r"'weight' is \(4, 2\), expected \(4, 3\)"), ({"scale": (2,)}, "lacks the tensor 'scale'")],
)
def test_tensors_that_do_not_fit(shapes: dict[str, tuple[int, ...]], says: str, tmp_path: Path) -> None:
    folder = whole(tmp_path, 30)
    with pytest.raises(UserError, match=says):
        checkpoint.read_tensors(folder, checkpoint.read_manifest(folder), "layer-000.safetensors", shapes)


def test_a_file_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    folder = whole(tmp_path, 30)
    with pytest.raises(UserError, match=r"layer-001\.safetensors"):
        checkpoint.read_tensors(folder, checkpoint.read_manifest(folder), "layer-001.safetensors", SHAPES)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"format": 99}, "format 99"),
        ({"step": -1}, "step"),
        ({"files": 3}, "files"),
        ({"input": {"shape": [2, 2], "width": 0, "classes": 2}}, "width"),
    ],
)
def test_a_manifest_that_cannot_be(spoil: dict[str, object], says: str, tmp_path: Path) -> None:
    folder = whole(tmp_path, 30)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoil}))
    with pytest.raises(UserError, match=says):
        checkpoint.read_manifest(folder)

"""Snapshots are whole or absent, do not depend on the partition, and are refused when they were touched."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import Input, TensorSpec, TensorSpecs
from ffpipe.storage.store import Store
from ffpipe.system.errors import Unreachable, UserError
from ffpipe.telemetry.report import WrittenFile

TAKES = Input(shape=(2, 2), width=4, classes=2)
STATE = {"weight": torch.arange(8.0).view(4, 2), "bias": torch.zeros(2)}
CONTENTS = {"weight": TensorSpec((4, 2), torch.float32), "bias": TensorSpec((2,), torch.float32, largest=9)}


def write(store: Store, step: int, name: str) -> WrittenFile:
    return checkpoint.write_tensors(store, step, name, STATE, checkpoint.weights_digest(STATE))


def whole(store: Store, step: int, keep: int = 2) -> str:
    files = [write(store, step, name) for name in ("layer-000.safetensors", "head.safetensors")]
    checkpoint.write_manifest(store, step, files, TAKES)
    checkpoint.prune(store, keep)
    return checkpoint.folder_of(step)


@pytest.fixture(params=["path", "uri"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same folder by its path and by a URI that pyarrow.fs resolves."""
    return Store(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


def test_what_was_written_is_read(store: Store, tmp_path: Path) -> None:
    folder = whole(store, 30)
    manifest = checkpoint.read_manifest(store, folder)
    assert manifest.step == 30
    assert manifest.input == TAKES
    state = checkpoint.read_tensors(store, folder, manifest, "layer-000.safetensors", CONTENTS)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    names = ["head.safetensors", "layer-000.safetensors", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names


def test_a_store_can_be_sent_to_another_process(store: Store) -> None:
    whole(store, 30)
    assert checkpoint.whole_snapshots(pickle.loads(pickle.dumps(store))) == ["step-00000030"]


def test_names_of_classes_may_be_long_but_not_longer_than_can_be_read(store: Store) -> None:
    files = [write(store, 30, "layer-000.safetensors")]
    takes = replace(TAKES, names=tuple(f"{number:05}" + "x" * 60 for number in range(30_000)))
    checkpoint.write_manifest(store, 30, files, takes)
    assert checkpoint.read_manifest(store, "step-00000030").input.names == takes.names
    with pytest.raises(OSError, match="the names of 1 classes are too long"):
        checkpoint.write_manifest(store, 40, files, replace(TAKES, names=("x" * checkpoint.LARGEST_MANIFEST,)))
    assert checkpoint.whole_snapshots(store) == ["step-00000030"]


def test_the_newest_are_kept_and_an_unfinished_one_goes_when_the_run_is_past_it(store: Store, tmp_path: Path) -> None:
    for step in (35, 45):
        write(store, step, "layer-000.safetensors")
    for step in (10, 20, 30, 40):
        whole(store, step)
    assert checkpoint.whole_snapshots(store) == ["step-00000030", "step-00000040"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000030", "step-00000040", "step-00000045"]


def test_what_is_named_almost_like_a_snapshot_is_somebody_s_own(store: Store, tmp_path: Path) -> None:
    whole(store, 10)
    (tmp_path / "step-00000010-keep").mkdir()
    for step in (20, 30, 40):
        whole(store, step)
    names = ["step-00000010-keep", "step-00000030", "step-00000040"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_whose_they_are(store: Store, tmp_path: Path) -> None:
    assert checkpoint.owner(store) == ""
    checkpoint.claim(store, "0" * 31 + "a")
    assert checkpoint.owner(store) == "0" * 31 + "a"
    (tmp_path / "run").write_text("something else")
    with pytest.raises(UserError, match="is for the snapshots of another run"):
        checkpoint.claim(store, "0" * 31 + "a")


def test_nothing_is_written_through_a_link(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("precious")
    (tmp_path / f".run.{os.getpid()}.tmp").symlink_to(mine / "precious")
    checkpoint.claim(store, "0" * 32)
    assert (mine / "precious").read_text() == "precious"
    assert not (tmp_path / "run").is_symlink()
    (tmp_path / checkpoint.folder_of(10)).symlink_to(mine)
    with pytest.raises(OSError, match="symbolic links"):
        write(store, 10, "layer-000.safetensors")
    assert [path.name for path in mine.iterdir()] == ["precious"]


def test_a_place_is_taken_once(store: Store) -> None:
    checkpoint.claim(store, "a" * 32)
    checkpoint.claim(store, "a" * 32)
    with pytest.raises(UserError, match=r"is for the snapshots of another run: .* remove the file"):
        checkpoint.claim(store, "b" * 32)
    checkpoint.disclaim(store, "b" * 32)
    assert checkpoint.owner(store) == "a" * 32
    checkpoint.disclaim(store, "a" * 32)
    checkpoint.claim(store, "b" * 32)
    whole(store, 10)
    checkpoint.disclaim(store, "b" * 32)
    assert checkpoint.owner(store) == "b" * 32


def test_what_a_killed_writer_left_is_removed(store: Store, tmp_path: Path) -> None:
    files = [write(store, 10, name) for name in ("layer-000.safetensors", "head.safetensors")]
    (tmp_path / "step-00000010" / ".head.safetensors.99999.tmp").write_bytes(b"half")
    checkpoint.write_manifest(store, 10, files, TAKES)
    checkpoint.prune(store, 2)
    names = ["head.safetensors", "layer-000.safetensors", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / "step-00000010").iterdir()) == names


def test_what_comes_after_a_step_is_forgotten_but_not_what_is_in_the_making(store: Store, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        whole(store, step, keep=3)
    write(store, 25, "layer-000.safetensors")
    checkpoint.forget_after(store, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000025"]


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_weights_of_which_numpy_knows_no_dtype_have_a_digest(dtype: torch.dtype) -> None:
    weights = {"weight": torch.arange(8.0).to(dtype)}
    bits = {"weight": weights["weight"].view(torch.int16 if dtype.itemsize == 2 else torch.uint8)}
    other = {"weight": torch.arange(8.0).flip(0).to(dtype)}
    assert checkpoint.weights_digest(weights) == checkpoint.weights_digest({"weight": weights["weight"].clone()})
    assert len({checkpoint.weights_digest(each) for each in (weights, bits, other)}) == 3


WRONG = {name: kept._replace(dtype=torch.float64) for name, kept in CONTENTS.items()}


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (WRONG, "'weight' is torch.float32 .*, expected torch.float64"),  # the first of them in order of contents
        (dict(reversed(WRONG.items())), "'bias' is torch.float32 .*, expected torch.float64"),
        (CONTENTS | {"weight": TensorSpec((4, 3), torch.float32, optional=True)}, r"expected .*\(4, 3\)"),
        (CONTENTS | {"weight": TensorSpec((4, 3), torch.float32)}, r"'weight' is .*\(4, 2\), expected .*\(4, 3\)"),
        (CONTENTS | {"weight": TensorSpec((4, 2), torch.float32, largest=6)}, "'weight' is .*7.0.*, expected 0 to 6"),
        (CONTENTS | {"scale": TensorSpec((2,), torch.float32)}, "lacks the tensor 'scale'"),
        ({"bias": CONTENTS["bias"]}, "has the tensor 'weight', which no run"),
    ],
)
def test_tensors_that_do_not_fit(contents: TensorSpecs, says: str, store: Store) -> None:
    folder = whole(store, 30)
    manifest = checkpoint.read_manifest(store, folder)
    with pytest.raises(UserError, match=says):
        checkpoint.read_tensors(store, folder, manifest, "layer-000.safetensors", contents)


def test_a_tensor_that_may_be_absent(store: Store) -> None:
    folder = whole(store, 30)
    manifest = checkpoint.read_manifest(store, folder)
    contents = CONTENTS | {"scale": TensorSpec((2,), torch.float32, optional=True)}
    state = checkpoint.read_tensors(store, folder, manifest, "layer-000.safetensors", contents)
    assert state.keys() == STATE.keys()


def test_a_file_that_the_manifest_does_not_list(store: Store) -> None:
    folder = whole(store, 30)
    with pytest.raises(UserError, match=r"layer-001\.safetensors"):
        checkpoint.read_tensors(
            store, folder, checkpoint.read_manifest(store, folder), "layer-001.safetensors", CONTENTS
        )


@pytest.mark.parametrize(
    ("harm", "says"), [("flip", "altered"), ("cut", "cut"), ("longer", "cannot be read"), ("absent", "cannot be read")]
)
def test_a_file_that_was_touched_is_named(harm: str, says: str, store: Store, tmp_path: Path) -> None:
    folder = whole(store, 30)
    manifest = checkpoint.read_manifest(store, folder)
    path = tmp_path / folder / "layer-000.safetensors"
    data = path.read_bytes()
    path.unlink()
    if harm != "absent":
        changed = {"flip": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "longer": data + b"0"}
        path.write_bytes(changed[harm])
    with pytest.raises(UserError, match=rf"layer-000\.safetensors .*{says}"):
        checkpoint.read_tensors(store, folder, manifest, "layer-000.safetensors", CONTENTS)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"format": 99}, "format 99"),
        ({"step": -1}, "step"),
        ({"step": 31}, "is of step 31, which is not that of its folder"),
        ({"files": 3}, "files"),
        ({"input": {"shape": [2, 2], "width": 0, "classes": 2}}, "width"),
    ],
)
def test_a_manifest_that_cannot_be(spoil: dict[str, object], says: str, store: Store, tmp_path: Path) -> None:
    folder = whole(store, 30)
    path = tmp_path / folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoil}))
    with pytest.raises(UserError, match=says):
        checkpoint.read_manifest(store, folder)


def test_a_place_that_cannot_be_reached_is_not_taken_for_a_damaged_file(store: Store) -> None:
    whole(store, 10)

    class Away(Store):
        def _info(self, name: str) -> fs.FileInfo:
            raise OSError("the network is down")

    with pytest.raises(Unreachable, match=r"manifest\.json cannot be reached .the network is down.: try again"):
        checkpoint.read_manifest(Away(store.root), "step-00000010")
    assert checkpoint.read_manifest(store, "step-00000010").step == 10

"""A run folder or a config from a stranger: what is wrong is said in one line, and nothing in it runs.

Inputs that broke something once, or would if a check went.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import tomli_w
import torch
from strangers import HEAD, LAYER, MANIFEST, Notes, bounded, fresh, make_run, newest, sign

import ffpipe
from ffpipe.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return fresh(run, tmp_path / "copy")


def refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one line on stderr that holds `says`."""
    capsys.readouterr()
    with bounded():
        assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert len(err) < 3000
    assert out == ""


def set_field(path: Path, name: str, value: Any) -> None:
    """One field of a config.toml or of a .json file; name: its keys, with slashes between them."""
    text = path.read_text()
    tree: dict[str, Any] = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    *folders, last = name.split("/")
    branch = tree
    for folder in folders:
        branch = branch[folder]
    branch[last] = value
    path.write_text(tomli_w.dumps(tree) if path.suffix == ".toml" else json.dumps(tree))


BAD_TOML: dict[str, tuple[str | bytes, str]] = {
    "a key too deep": ("a." * 100_000 + "a = 1", "a key of more than 8 parts"),
    "a quoted key too deep": ('"\\"".' * 40_000 + "a = 1", "a key of more than 8 parts"),
    "a table too deep": ("[" + "a." * 100_000 + "a]", "a key of more than 8 parts"),
    "an inline table too deep": ("x = {" + "a ." * 80_000 + "a = 1}", "a key of more than 8 parts"),
    "arrays in arrays": ("a = " + "[" * 100_000, "recursion"),
    "tables in tables": ("a = " + "{a=" * 50_000, "recursion"),
    "too large": ("# " + "x" * 300_000, "more than 262,144 bytes"),
    "many keys": ("".join(f"a{i} = 1\n" for i in range(20_000)), "unknown field 'a0'"),
    "digits without end": ("[training]\nseed = " + "9" * 5000, "no valid TOML"),
    "another base without end": ("[training]\nseed = 0x" + "f" * 100_000, "training.seed is beyond"),
    "no UTF-8": (b"a = '\xff\xfe'", "utf-8"),
    "a NUL byte": ("a = 1\0", "no valid TOML"),
    "control characters": ('"\\u001b[2J" = 1', "unknown field"),
    "a name without end": ("a" * 200_000 + " = 1", "unknown field 'aaaa"),
}


@pytest.mark.parametrize("kind", BAD_TOML)
def test_no_config(kind: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = BAD_TOML[kind]
    path = copy / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(["train", str(path)], says, capsys)
    for command in ("evaluate", "resume"):
        refused([command, str(copy)], says, capsys)


ABSURD: list[tuple[str, Any, str]] = [
    ("training/dims", [64, 10**12, 20], "training.dims[1]: expected int <= 16777216"),
    ("training/dims", [64, 10**7, 10**7], "GiB, this host has"),
    ("training/dims", [64, *[1] * 5000], "training.dims: expected array of length <= 1001"),
    ("training/epochs", 10**12, "give at most 3571428"),
    ("training/epochs", 10**18, "training.epochs is beyond"),
    ("training/batch_size", 10**12, "but there are 1400 training examples"),
    ("training/negative_lag", 10**9, "training.negative_lag: expected int <= 65536"),
    ("training/seed", 2**60, "training.seed is beyond"),
    ("training/label_strength", 1e300, "training.label_strength is 1e+300"),
    ("training/optimizer/learning_rate", 1e300, "training.optimizer.learning_rate is 1e+300"),
    ("training/data/classes", 10**12, "training.data.classes: expected int <= 16777216"),
    ("training/data/classes", 10**6, "GiB, this host has"),
    ("training/data/train", ["\0"], "training.data.train[0] holds the character NUL"),
    ("training/optimizer/kind", "__init__", "training.optimizer.kind is '__init__'"),
    ("training/head_optimizer/options", {"capturable": True}, "does not fit torch.optim.Adam"),
    ("training/head_optimizer/options", {"betas": 0.5}, "does not fit torch.optim.Adam"),
    ("execution/run_dir", "\0", "execution.run_dir holds the character NUL"),
    ("execution/run_dir", "a" * 5000, "cannot be made"),
    ("execution/attempts", 10**9, "execution.attempts: expected int <= 100"),
    ("execution/back_off", 1e9, "execution.back_off: expected float <= 3600"),
    ("execution/stage_timeout", 1e300, "execution.stage_timeout: expected float <= 1000000"),
    ("execution/resources", {"GPU": 1.0}, "execution.resources names 'GPU'"),
    ("execution/resources", {"tpu": -1.0}, "expected float >= 0"),
    ("recipe", "../../elsewhere", "recipe: expected str matching regex"),
    ("recipe", "/elsewhere", "recipe: expected str matching regex"),
]


@pytest.mark.parametrize(("field", "value", "says"), ABSURD)
def test_a_config_that_asks_for_what_cannot_be(
    field: str, value: Any, says: str, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    set_field(copy / "config.toml", field, value)
    refused(["train", str(copy / "config.toml")], says, capsys)


def test_messages_larger_than_the_host(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_field(copy / "config.toml", "training/negatives", "random")
    set_field(copy / "config.toml", "training/epochs", 3_000_000)
    set_field(copy / "config.toml", "execution/chunk", 10**12)
    refused(["train", str(copy / "config.toml")], "GiB, this host has", capsys)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("put", [pipe, endless, folder, loop])
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


BAD_MANIFESTS: list[tuple[str, Any, str]] = [
    (f"files/{LAYER}/size", 10**15, "was cut"),
    (f"files/{LAYER}/size", -1, "size"),
    (f"files/{LAYER}/sha256", "../" * 21 + "x", "sha256"),
    ("files", {"../../../etc/passwd": {"sha256": "0" * 64, "size": 1, "weights_sha256": "0" * 64}}, "has no layer-000"),
    ("files", [[]] * 10, "files"),
    ("step", 10**18, "step"),
    ("step", 20, "is of step 20, which is not that of its folder"),
    ("input/shape", [8, 9], "is of a network for"),
    ("input/shape", [10**7] * 30, "is of a network for"),
    ("input/shape", [1] * 100_000, "shape"),
    ("input/width", 64, "is of a network for"),
    ("input/classes", 11, "is of a network for"),
    ("input/classes", 10**9, "classes"),
]


@pytest.mark.parametrize(("field", "value", "says"), BAD_MANIFESTS)
def test_a_manifest_that_lies(
    field: str, value: Any, says: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = newest(copy) / MANIFEST
    set_field(place, field, value)
    refused(["predict", str(copy), "a.npy"], says, capsys)
    passed_over(copy, place.parent.name)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":' * 50_000, "depth"),
        (b"[" * 100_000, "depth"),
        (b'{"format": 1, "weights_sha256": "\xbc"}', "utf-8"),
        (b"", "truncated"),
        (b" " * (2 << 20), "more than"),
        (b'{"format": 1e400}', "int"),
    ],
)
def test_no_manifest(data: bytes, says: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = newest(copy) / MANIFEST
    path.write_bytes(data)
    refused(["predict", str(copy), "a.npy"], says, capsys)
    passed_over(copy, path.parent.name)


def passed_over(run: Path, name: str) -> None:
    """Resume says that it passes over this snapshot, and comes to the end from the one before."""
    view = Notes()
    with bounded():
        ffpipe.resume(run, view=view)
    assert len(view.notes) == 1
    assert name in view.notes[0]
    assert "trying the snapshot before it" in view.notes[0]


Tensors = dict[str, torch.Tensor]
FOREIGN: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "a weight in another precision": (LAYER, lambda t: t.update(weight=t["weight"].double()), "'weight' is"),
    "integers for a bias": (LAYER, lambda t: t.update(bias=t["bias"].int()), "'bias' is torch.int32"),
    "a running mean of another width": (LAYER, lambda t: t.update(mean_activity=torch.zeros(21)), "'mean_activity' is"),
    "no running mean": (LAYER, lambda t: t.pop("mean_activity"), "lacks the tensor 'mean_activity'"),
    "no optimiser": (LAYER, lambda t: t.pop("optimizer.bias_average"), "lacks the tensor 'optimizer.bias_average'"),
    "one that would be broadcast": (LAYER, lambda t: t.update({"optimizer.bias_average": torch.zeros(1)}), "expected"),
    "another optimiser": (
        HEAD,
        lambda t: t.update({"optimizer.1.weight.nan": torch.zeros(1)}),
        "no run of this config",
    ),
    "steps below none": (HEAD, lambda t: t["optimizer.2.weight.step"].fill_(-1), "is -1.0, expected 0 to 28"),
    "steps that are no number": (HEAD, lambda t: t["optimizer.2.weight.step"].fill_(float("nan")), "is nan"),
    "steps of another kind": (LAYER, lambda t: t.update(meter_steps=torch.tensor(float("nan"))), "'meter_steps' is"),
    "more steps than there were": (LAYER, lambda t: t["meter_steps"].fill_(2**62), "expected 0 to 28"),
    "a meter of another size": (LAYER, lambda t: t.update(meter=torch.zeros(0).double()), "'meter' is"),
    "a prediction for no step": (HEAD, lambda t: t.update({"prediction.x": torch.zeros(50, 10)}), "'prediction.x'"),
    "a prediction for another": (HEAD, lambda t: t.update({"prediction.10000000000": torch.zeros(50, 10)}), "no run"),
    "no prediction": (HEAD, lambda t: t.pop("prediction.29"), "lacks the tensor 'prediction.29'"),
    "a prediction for fewer": (HEAD, lambda t: t.update({"prediction.29": torch.zeros(49, 10)}), "'prediction.29' is"),
    "tensors of nothing": (HEAD, lambda t: t.update({"weight.1": torch.zeros(0, 10**12)}), "'weight.1' is"),
    "a tensor too many": (LAYER, lambda t: t.update(more=torch.zeros(5000)), "bytes, more than"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_tensors_of_somebody_else(kind: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, change, says = FOREIGN[kind]
    path = newest(copy) / name
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path)
    sign(path)
    refused(["predict", str(copy), "a.npy"], says, capsys)
    passed_over(copy, str(path))


ONE = b'"%s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HEADERS = {
    "longer than the file": b"\xff" * 8,
    "empty": b"\0" * 8,
    "deep": (lambda text: len(text).to_bytes(8, "little") + text)(b'{"a":' * 300),
    "overlap": b"{%s, %s}" % (ONE % b"a", ONE % b"b"),
    "no such dtype": b'{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}',
    "a huge product": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}',
    "another size": b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}',
    "below zero": b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[-4,0]}}',
    "far away": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}}',
    "half a byte": b'{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}',
    "no object": b"[]",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie(kind: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = HEADERS[kind]
    path = newest(copy) / LAYER
    whole = header if header[:1] not in b"{[" else len(header).to_bytes(8, "little") + header + bytes(4)
    path.write_bytes(whole)
    sign(path)
    refused(["predict", str(copy), "a.npy"], LAYER, capsys)
    passed_over(copy, str(path))


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


@pytest.mark.parametrize("put", [pipe, endless, folder])
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


def test_metrics_and_summary_are_written_and_never_read(copy: Path) -> None:
    metrics = pq.read_table(copy / "metrics.parquet")
    for name in ("metrics.parquet", "summary.json"):
        (copy / name).write_bytes(b"PAR1" + bytes(100))
    view = Notes()
    ffpipe.resume(copy, view=view)
    assert view.notes == []
    assert pq.read_table(copy / "metrics.parquet") == metrics
    assert json.loads((copy / "summary.json").read_text())["status"] == "finished"


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_run_folder_is_unpickled(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    ffpipe.resume(copy, {"execution.trace": True})
    assert mine.read_text() == "precious"
    assert json.loads((copy / "trace.json").read_text())

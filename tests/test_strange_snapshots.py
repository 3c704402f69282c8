"""A snapshot from a stranger: what is wrong is said in one line, and resume goes on from the one before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from strangers import HEAD, LAYER, MANIFEST, newest, passed_over, refused, set_field, sign

from ffpipe.storage import checkpoint

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
        (b" " * (checkpoint.LARGEST_MANIFEST + 1), "more than"),
        (b'{"format": 1e400}', "int"),
    ],
)
def test_no_manifest(data: bytes, says: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = newest(copy) / MANIFEST
    path.write_bytes(data)
    refused(["predict", str(copy), "a.npy"], says, capsys)
    passed_over(copy, path.parent.name)


def test_a_snapshot_of_a_later_ffpipe_is_left_alone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = newest(copy)
    set_field(place / MANIFEST, "format", 2)
    before = sorted(path.name for path in place.parent.iterdir())
    refused(["resume", str(copy)], "has format 2; this ffpipe reads format 1", capsys)
    assert sorted(path.name for path in place.parent.iterdir()) == before


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
    "steps that are not a number": (HEAD, lambda t: t["optimizer.2.weight.step"].fill_(float("nan")), "is nan"),
    "steps of another kind": (LAYER, lambda t: t.update(meter_steps=torch.tensor(float("nan"))), "'meter_steps' is"),
    "more steps than there were": (LAYER, lambda t: t["meter_steps"].fill_(2**62), "expected 0 to 28"),
    "a meter of another size": (LAYER, lambda t: t.update(meter=torch.zeros(0).double()), "'meter' is"),
    "a prediction for no step": (HEAD, lambda t: t.update({"prediction.x": torch.zeros(50, 10)}), "'prediction.x'"),
    "a prediction for another": (HEAD, lambda t: t.update({"prediction.10000000000": torch.zeros(50, 10)}), "no run"),
    "no prediction": (HEAD, lambda t: t.pop("prediction.29"), "lacks the tensor 'prediction.29'"),
    "a prediction for fewer": (HEAD, lambda t: t.update({"prediction.29": torch.zeros(49, 10)}), "'prediction.29' is"),
    "tensors of nothing": (HEAD, lambda t: t.update({"weight.1": torch.zeros(0, 10**12)}), "'weight.1' is"),
    "a tensor too many": (LAYER, lambda t: t.update(more=torch.zeros(5000)), "no run of this config"),
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

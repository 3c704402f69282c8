"""Files that are written piece by piece are read by the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from ffpipe.storage import tensorfile

STATE = {
    "steps": torch.tensor(7),
    "on": torch.tensor([True, False, True]),
    "weight": torch.arange(6.0).reshape(2, 3),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
    "product": torch.arange(5.0).to(torch.bfloat16),
    "none": torch.empty(0, 4),
    "meter": torch.tensor([1.5, 2.5], dtype=torch.float64),
}


def test_the_library_reads_every_tensor_to_the_bit() -> None:
    read = safetensors.torch.load(b"".join(tensorfile.pieces(STATE)))
    assert read.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_metadata_are_kept(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(tensorfile.header(STATE, {"format": "ffpipe"}))
        file.writelines(tensorfile.data(STATE[name]) for name in tensorfile.order(STATE))
    with safe_open(tmp_path / "file", "pt") as opened:
        assert opened.metadata() == {"format": "ffpipe"}
        assert torch.equal(opened.get_tensor("turned"), STATE["turned"])


@pytest.mark.parametrize("names", [["a"], ["aa"], ["a" * n for n in range(1, 9)]])
def test_tensors_begin_where_their_format_may(names: list[str]) -> None:
    of = {name: torch.empty(1, dtype=torch.float64, device="meta") for name in names}
    head = tensorfile.header(of | {"A": torch.empty(3, dtype=torch.bool, device="meta")})
    assert len(head) % 8 == 0
    told = json.loads(head[8:])
    # Last, though its name comes first.
    assert told["A"]["data_offsets"] == [8 * len(names), 8 * len(names) + 3]


def test_a_contiguous_tensor_is_not_copied() -> None:
    weight = torch.zeros(3)
    data = tensorfile.data(weight)
    weight[0] = 1.0
    assert bytes(data[:4]) == b"\x00\x00\x80\x3f"

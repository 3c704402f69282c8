"""Exported weights, in layers that somebody else wrote and as a program."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

import ffpipe


def test_exported_weights_make_the_same_scores_in_plain_linear_layers(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    path = ffpipe.export(run.run_dir, tmp_path / "weights.safetensors")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        assert file.metadata()["shape"] == "8 8"
        assert file.metadata()["classes"] == "10"
        assert file.metadata()["divisor"] == "255"
    rows = torch.cat([test_split[0], torch.full((len(test_split[0]), 10), 0.1)], 1)
    logits = torch.zeros(len(rows), 10)
    for layer in range(3):
        rows = rows / rows.pow(2).mean(1, keepdim=True).sqrt()
        rows = torch.relu(
            torch.nn.functional.linear(rows, tensors[f"layer{layer}.weight"], tensors[f"layer{layer}.bias"])
        )
        if layer:
            unit = rows / rows.pow(2).mean(1, keepdim=True).sqrt()
            logits += torch.nn.functional.linear(unit, tensors[f"head{layer}.weight"])
    torch.testing.assert_close(logits, ffpipe.load(run.run_dir)(test_split[0]), rtol=1e-4, atol=1e-4)


def test_an_exported_program_has_the_scores_of_the_network(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images = test_split[0].view(-1, 8, 8)
    kept = {"ffpipe.json": ""}
    program = torch.export.load(ffpipe.export(run.run_dir, tmp_path / "net.pt2"), extra_files=kept).module()
    assert json.loads(kept["ffpipe.json"])["shape"] == "8 8"
    for count in (1, 4, len(images)):
        torch.testing.assert_close(program(images[:count]), ffpipe.load(run.run_dir)(images[:count]))


@pytest.mark.parametrize("ending", ["pt", ""])
def test_other_endings_are_not_written(run: ffpipe.Result, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{ending}"
    with pytest.raises(ffpipe.UserError, match=r"\.safetensors .*\.pt2 .*\.onnx"):
        ffpipe.export(run.run_dir, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [("onnx",), ("onnx", "onnxscript")])
def test_packages_that_a_format_needs_are_named(
    run: ffpipe.Result, missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript"):
        there = ModuleType(name)
        there.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, None if name in missing else there)
    with pytest.raises(ffpipe.UserError, match=" and ".join(missing) + ": install"):
        ffpipe.export(run.run_dir, tmp_path / "net.ONNX")

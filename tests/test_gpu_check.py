"""The check of a GPU keeps to its time, judges memory, and its parts run on a CPU as on a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import torch
from gpu_check import beyond_plan, bounded, in_turn, kinds, ways
from gpu_parts import FORMATS, conv_times, convolutions, count_on_device, format_of_products

from ffpipe.learn.local import LocalBlock
from ffpipe.learn.workspace import Workspace

CPU = torch.device("cpu")
ENDLESS = "trap 'echo saved > $0; exit 0' TERM; while :; do sleep 0.01; done"


def test_a_command_is_asked_to_end_when_its_time_is_over(tmp_path: Path) -> None:
    assert bounded(["sh", "-c", ENDLESS, str(tmp_path / "file")], 1.0) is None
    assert (tmp_path / "file").read_text() == "saved\n"


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_command_that_ends_by_itself_has_its_status(status: int) -> None:
    assert bounded([sys.executable, "-S", "-c", f"raise SystemExit({status})"], 60.0) == status


def test_a_part_for_which_there_is_no_time_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    report: dict[str, Any] = {}
    assert in_turn(["conv", "digests"], "cpu", 0.1, report, None) == 2
    assert report == {}
    assert capsys.readouterr().out.count("left out, for there is no time for it") == 2


@pytest.mark.long
def test_a_part_is_a_process_whose_findings_are_kept(tmp_path: Path) -> None:
    report: dict[str, Any] = {}
    assert in_turn(["rounding"], "cpu", 5.0, report, tmp_path / "out") == 0
    assert report["rounding"]["dense, float32"] == {"outputs": 0.0, "weights": 0.0}
    assert json.loads((tmp_path / "out").read_text()) == report


def test_more_memory_than_planned_does_not_pass() -> None:
    assert [beyond_plan(measured, 1000) for measured in (0, 999, 1100, 1101)] == [False, False, False, True]


def test_two_replicas_divide_two_shards() -> None:
    found = kinds()
    whole, cut = found["residual, float32"], found["residual, float32, two shards"]
    assert (whole.training.shards, cut.training.shards) == (1, 2)
    assert "ray, two replicas" not in ways(whole, "cuda")
    assert ways(cut, "cuda")["ray, two replicas"] == {
        "engine": "ray", "stages": 1, "replicas": 2, "device": "cuda", "gpus": 0.5,
    }  # fmt: skip
    assert "gpus" not in ways(cut, "cpu")["ray, two replicas"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_of_products_and_of_convolutions(name: str) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with format_of_products(name):
        assert (torch.get_float32_matmul_precision() == "high") is (name == "tf32")
        assert torch.backends.cudnn.allow_tf32 is (name == "tf32")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_a_convolution_is_timed_alone_in_a_bare_loop_and_as_graphs(name: str) -> None:
    found = conv_times(2, name, CPU)
    assert list(found) == ["step", "bare loop", "step as a graph", "bare loop as a graph"]
    assert found["step as a graph"] == found["bare loop as a graph"] == "no GPU"
    assert all(isinstance(found[each], float) for each in ("step", "bare loop"))


@pytest.mark.long  # torch loads its compiler
def test_the_steps_of_a_block_that_is_captured_are_counted_on_the_device() -> None:
    block = convolutions(2, "float32").network.make(1, Workspace(CPU))
    assert isinstance(block, LocalBlock)
    count_on_device(block)
    assert block.optimizer is not None
    assert [group["capturable"] for group in block.optimizer._optimizer.param_groups] == [True]


def test_the_minutes_of_all_parts_are_those_of_the_whole() -> None:
    assert sum(minutes for _, minutes in gpu_check.PARTS.values()) == pytest.approx(8.0)

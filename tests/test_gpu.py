"""Runs on an NVIDIA GPU: `pytest -m gpu` on a machine that has one. scripts/gpu_check.py measures beside this."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gpu_check import ROUNDING, kinds, ways
from gpu_parts import convolutions, distance_from_cpu, network_of

import ffpipe

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")]

KINDS = kinds()
GPU = torch.device("cuda")


@pytest.mark.parametrize("kind", KINDS)
def test_however_a_run_is_cut_its_weights_on_a_gpu_are_the_same(kind: str, tmp_path: Path) -> None:
    digests = {}
    for name, way in ways(KINDS[kind], "cuda").items():
        execution = replace(KINDS[kind].execution, run_dir=str(tmp_path / name), **way)
        digests[name] = ffpipe.train(replace(KINDS[kind], execution=execution)).weights_sha256
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_resumed_on_a_gpu_has_the_weights_of_one_that_is_not(kind: str, tmp_path: Path) -> None:
    class StopAtOnce(ffpipe.Callback):
        def on_start(self, run: ffpipe.RunStart) -> None:
            run.stop()

    def config(name: str) -> ffpipe.Config:
        execution = replace(KINDS[kind].execution, engine="local", run_dir=str(tmp_path / name), device="cuda")
        return replace(KINDS[kind], execution=execution)

    whole = ffpipe.train(config("whole")).weights_sha256
    with pytest.raises(ffpipe.Interrupted):
        ffpipe.train(config("resumed"), callbacks=[StopAtOnce()])
    assert ffpipe.resume(tmp_path / "resumed").weights_sha256 == whole


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_gpu_comes_to_what_the_cpu_comes_to_but_for_rounding(kind: str, precision: str) -> None:
    dense = network_of(ffpipe.recipe("digits"), dims=(64, 500, 500), precision=precision)
    apart = distance_from_cpu(dense if kind == "dense" else convolutions(32, precision), 1, GPU)
    assert max(apart.values()) <= ROUNDING[precision], apart

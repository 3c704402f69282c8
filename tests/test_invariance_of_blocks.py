"""The promise, for every kind of block: engine, stages, chunks, threads, a crash and a resume change no bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import Disturb
from kinds_of_blocks import KINDS, network
from processes import stage_processes

from ffpipe import Config, Result, resume, train

WAYS: dict[str, dict[str, Any]] = {
    "local, two stages, chunk 3": {"engine": "local", "stages": 2, "chunk": 3, "evaluate_every": 1},
    "layerwise, chapters of 7": {"engine": "layerwise", "chapter": 7, "chunk": 2},
    "layerwise, two stages": {"engine": "layerwise", "stages": 2, "evaluate_every": 1},
}


def run(config: Config, run_dir: Path, view: Disturb | None = None, **fields: Any) -> Result:
    if not config.training.data.validation:
        fields.pop("evaluate_every", None)
    execution = replace(config.execution, run_dir=str(run_dir), **fields)
    return train(replace(config, execution=execution), view, allow_code=["own.py"])


@pytest.fixture(scope="module", params=list(KINDS), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def config(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return network(kind, tmp_path_factory.mktemp("kind"))


@pytest.fixture(scope="module")
def digest(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The digest of the reference: one process, one stage, one thread, one minibatch at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(config, tmp_path_factory.mktemp("reference") / "run", engine="local", stages=1, chunk=1).weights_sha256
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_every_way_gives_the_same_weights(config: Config, digest: str, way: dict[str, Any], tmp_path: Path) -> None:
    assert run(config, tmp_path / "run", **way).weights_sha256 == digest


@pytest.mark.usefixtures("threads_put_back")
def test_threads_change_no_bit(config: Config, digest: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    assert run(config, tmp_path / "two", engine="local", stages=1).weights_sha256 == digest


@pytest.mark.usefixtures("cluster")
def test_three_stages_of_which_one_is_killed(config: Config, digest: str, tmp_path: Path) -> None:
    killed = Disturb(1, lambda: os.kill(stage_processes()[-1], signal.SIGKILL))
    way = {"engine": "ray", "stages": 3, "chunk": 3, "snapshot_steps": 5, "back_off": 0.05, "evaluate_every": 1}
    assert run(config, tmp_path / "killed", killed, **way).weights_sha256 == digest
    assert killed.done


@pytest.mark.usefixtures("cluster")
def test_two_stages_that_end_early_and_go_on_as_three_elsewhere(config: Config, tmp_path: Path) -> None:
    blocks = tuple(replace(block, first_epoch=0) for block in config.training.blocks)
    longer = replace(config, training=replace(config.training, schedule="constant", blocks=blocks))
    whole = run(longer, tmp_path / "whole", engine="local", stages=1)
    half = replace(longer, training=replace(longer.training, epochs=1))
    run(half, tmp_path / "half", engine="ray", stages=2, chunk=1)
    changes = {"training.epochs": 2, "execution.engine": "layerwise", "execution.stages": 3}
    resumed = resume(tmp_path / "half", changes, allow_code=["own.py"]).weights_sha256
    assert resumed == whole.weights_sha256


def test_another_seed_is_another_network(config: Config, digest: str, tmp_path: Path) -> None:
    other = replace(config, training=replace(config.training, seed=4))
    assert run(other, tmp_path / "run", engine="local", stages=1).weights_sha256 != digest

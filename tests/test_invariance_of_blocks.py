"""The promise, for every kind of block: engine, stages, chunks, threads, a crash and a resume change no bit.

`make test` takes every kind through every engine, through a crash and a resume elsewhere, on one thread and two, in
one to three stages and several chunks. Kinds take turns in which of these meet (covering.py); the other combinations
are long tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import in_turn
from disturbed import Disturb
from kinds_of_blocks import KINDS, network
from processes import stage_processes

from ffpipe import Config, Result, resume, train

LOCAL: dict[str, dict[str, Any]] = {
    "local, two stages, chunk 3": {"engine": "local", "stages": 2, "chunk": 3, "evaluate_every": 1},
    "local, three stages": {"engine": "local", "stages": 3},
}
LAYERWISE: dict[str, dict[str, Any]] = {
    "layerwise, chapters of 7": {"engine": "layerwise", "chapter": 7, "chunk": 2},
    "layerwise, two stages": {"engine": "layerwise", "stages": 2, "evaluate_every": 1},
}
WAYS = LOCAL | LAYERWISE
# How a run begins on Ray, and how it goes on.
STORIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two stages, then layerwise on three": (
        {"stages": 2, "chunk": 1},
        {"engine": "layerwise", "stages": 3},
    ),
    "three stages, then local on one": (
        {"stages": 3, "chunk": 3, "snapshot_steps": 5, "evaluate_every": 1},
        {"engine": "local", "stages": 1},
    ),
}


def run(config: Config, run_dir: Path, view: Disturb | None = None, **fields: Any) -> Result:
    if not config.training.data.validation:
        fields.pop("evaluate_every", None)
    execution = replace(config.execution, run_dir=str(run_dir), **fields)
    return train(replace(config, execution=execution), view, allow_code=["own.py"])


# Each has something that a snapshot or a message of the others lacks.
MOST_DIFFERENT = ("conv, batch norm, dropout", "residual and skip", "own module")
KILLED = MOST_DIFFERENT[1:2]


class Kinds:
    """Networks of all kinds, and what weights they end with, each made once."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._configs: dict[str, Config] = {}
        self._digests: dict[str, str] = {}

    def config(self, kind: str) -> Config:
        if kind not in self._configs:
            self._configs[kind] = network(kind, self._factory.mktemp("kind"))
        return self._configs[kind]

    def digest(self, kind: str) -> str:
        """Return that of the reference: one process, one stage, one thread, one minibatch at a time."""
        if kind not in self._digests:
            torch.set_num_threads(1)
            folder = self._factory.mktemp("reference") / "run"
            result = run(self.config(kind), folder, engine="local", stages=1, chunk=1)
            self._digests[kind] = result.weights_sha256
        return self._digests[kind]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    threads = torch.get_num_threads()
    yield Kinds(tmp_path_factory)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("kind", "way"), [*in_turn(KINDS, LOCAL), *in_turn(KINDS, LAYERWISE, among=MOST_DIFFERENT)])
def test_every_way_gives_the_same_weights(kind: str, way: str, kinds: Kinds, tmp_path: Path) -> None:
    """The local engine on two threads."""
    digest = kinds.digest(kind)
    torch.set_num_threads(2 if way in LOCAL else 1)
    assert run(kinds.config(kind), tmp_path / "run", **WAYS[way]).weights_sha256 == digest


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_threads_change_no_bit(kind: str, way: str, kinds: Kinds, tmp_path: Path) -> None:
    digest = kinds.digest(kind)
    torch.set_num_threads(1 if way in LOCAL else 2)
    assert run(kinds.config(kind), tmp_path / "run", **WAYS[way]).weights_sha256 == digest


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("kind", "story"), in_turn(KINDS, STORIES, among=KILLED))
def test_a_stage_is_killed_and_the_run_goes_on_elsewhere(kind: str, story: str, kinds: Kinds, tmp_path: Path) -> None:
    """It ends early, for others to go on. Schedules that depend on the length of a run are left out."""
    config = kinds.config(kind)
    blocks = tuple(replace(block, first_epoch=0) for block in config.training.blocks)
    longer = replace(config, training=replace(config.training, schedule="constant", blocks=blocks))
    torch.set_num_threads(1)
    whole = run(longer, tmp_path / "whole", engine="local", stages=1)
    half = replace(longer, training=replace(longer.training, epochs=1))
    begins, goes_on = STORIES[story]
    killed = Disturb(1, lambda: os.kill(stage_processes()[-1], signal.SIGKILL))
    run(half, tmp_path / "half", killed, engine="ray", back_off=0.05, **begins)
    assert killed.done
    changes = {"training.epochs": 2, **{f"execution.{name}": value for name, value in goes_on.items()}}
    assert resume(tmp_path / "half", changes, allow_code=["own.py"]).weights_sha256 == whole.weights_sha256


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", KINDS)
def test_three_stages_of_which_one_is_killed(kind: str, kinds: Kinds, tmp_path: Path) -> None:
    """With its own schedule, to its end."""
    digest = kinds.digest(kind)
    killed = Disturb(1, lambda: os.kill(stage_processes()[-1], signal.SIGKILL))
    way = {"engine": "ray", "stages": 3, "chunk": 3, "snapshot_steps": 5, "back_off": 0.05, "evaluate_every": 1}
    assert run(kinds.config(kind), tmp_path / "killed", killed, **way).weights_sha256 == digest
    assert killed.done


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long if number else ()) for number, kind in enumerate(KINDS)]
)
def test_another_seed_is_another_network(kind: str, kinds: Kinds, tmp_path: Path) -> None:
    config, digest = kinds.config(kind), kinds.digest(kind)
    other = replace(config, training=replace(config.training, seed=4))
    assert run(other, tmp_path / "run", engine="local", stages=1).weights_sha256 != digest

"""Stages write what contents.py expects in the files of a snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from covering import only
from kinds_of_blocks import KINDS, network

import ffpipe
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.snapshot_schema import snapshot_schema
from ffpipe.runs.folder import open_run
from ffpipe.runs.model import with_model
from ffpipe.runs.resumed import verified
from ffpipe.storage import checkpoint

OPTIMIZERS = ["averaging", "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD"]
OPTIMIZERS += ["RMSprop", "Adafactor"]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("precision", only(["float32"], ["float32", "bfloat16", "float64"]))
def test_what_is_expected_of_a_file_is_what_is_written(kind: str, precision: str, tmp_path: Path) -> None:
    """Every tensor's name, shape and dtype, for every optimiser; nothing else could be gone on from."""
    fields = {
        "training.epochs": 1,
        "training.dims": [64, 5, 4],
        "training.precision": precision,
        "training.negative_lag": 3,
        "training.optimizer.kind": kind,
        "training.optimizer.options": {"momentum": 0.9} if kind == "SGD" else {},
        "training.head_optimizer.kind": kind,
    }
    check_snapshots(fields, tmp_path / "run", (2, 4))


def test_a_layer_that_learns_later_has_no_state_before(tmp_path: Path) -> None:
    layers = [
        {"kind": "ff-dense", "options": {"width": 9}},
        {"kind": "ff-dense", "options": {"width": 8}, "first_epoch": 2},
    ]
    fields = {"training.epochs": 3, "training.blocks": layers, "training.optimizer.kind": "Adam"}
    check_snapshots(fields, tmp_path / "run", (2, 4, 6, 8, 10, 12))
    # Whoever reads the run does not know how many steps an epoch had.
    for step in (12, 10, 8, 6):
        ffpipe.evaluate(tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "checkpoints" / checkpoint.folder_of(step))


def check_snapshots(fields: dict[str, Any], folder: Path, steps: Sequence[int]) -> None:
    """Train epochs of four steps, and hold the snapshots after some steps against what is expected of them."""
    both = {
        **fields,
        "training.batch_size": 300,
        "training.data.train_limit": 1300,
        "execution.engine": "local",
        "execution.stages": 1,
        "execution.evaluate_every": 0,
        "execution.snapshot_steps": 2,
        "execution.keep_snapshots": 9,
        "execution.run_dir": str(folder),
    }
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), both))
    opened, config = open_run(folder)
    job, store = make_job(config), opened.store(config)
    for step in steps:
        assert verified(store, checkpoint.folder_of(step), job).step == step


@pytest.mark.parametrize(
    # Numbers that an optimiser keeps for each weight, and for each parameter besides: its count of steps.
    ("kind", "per_weight", "per_parameter"),
    [("SGD", 0, 0), ("averaging", 1, 0), ("Adagrad", 1, 1), ("Adam", 2, 1)],
)
def test_state_is_counted_once_in_what_a_run_needs_at_least(kind: str, per_weight: int, per_parameter: int) -> None:
    fields = {
        "training.dims": [64, 500, 400],
        "training.negatives": "random",
        "training.optimizer.kind": kind,
        "training.head": False,
    }
    job = make_job(ffpipe.override(ffpipe.recipe("digits"), fields))
    weights = [(64 + 10) * 500, 500, 500 * 400, 400]  # of images with a label behind them, and biases
    numbers = (1 + per_weight) * sum(weights) + per_parameter * len(weights)
    means = 500 + 400  # of activities
    meters = 2 * (2 * 8 + 8)  # of the losses since the last row of metrics, of each layer
    assert job.least_bytes == 4 * (numbers + means) + meters + job.minibatch_bytes


@pytest.mark.parametrize("precision", only(["float32"], ["float32", "bfloat16"]))
@pytest.mark.parametrize("kind", only(list(KINDS)[::2], KINDS))
def test_what_is_expected_of_a_block_is_what_is_written(kind: str, precision: str, tmp_path: Path) -> None:
    config = ffpipe.override(network(kind, tmp_path), {"training.precision": precision})
    check_blocks(config, tmp_path / "run")


@pytest.mark.parametrize("optimizer", only(OPTIMIZERS[:3], OPTIMIZERS))
def test_what_is_expected_of_an_optimiser_of_a_block_is_what_is_written(optimizer: str, tmp_path: Path) -> None:
    config = network("conv, batch norm, dropout", tmp_path)
    settings = ffpipe.Optimizer(kind=optimizer, weight_decay=0.01, options={})
    check_blocks(replace(config, training=replace(config.training, optimizer=settings)), tmp_path / "run")


def check_blocks(config: ffpipe.Config, run: Path) -> None:
    """Check that nothing is absent but perhaps the state of an optimiser before its first step."""
    fields = {
        "training.data.train_limit": 2 * config.training.batch_size,
        "execution.engine": "local",
        "execution.stages": 1,
        "execution.snapshot_steps": 1,
        "execution.keep_snapshots": 9,
        "execution.run_dir": str(run),
    }
    code = config.training.model
    ffpipe.train(ffpipe.override(config, fields), allow_code=[code])
    opened, kept = open_run(run)
    job, store = make_job(*with_model(kept, None, [code], "the run")), opened.store(kept)
    for step in range(1, 5):
        folder = checkpoint.folder_of(step)
        manifest, expected = verified(store, folder, job), snapshot_schema(job.network, step)
        for outline in job.network.outlines:
            name = checkpoint.layer_file(outline.index)
            state = checkpoint.read_tensors(store, folder, manifest, name, expected[name])
            if step > 2 * outline.rates.first:
                assert state.keys() == expected[name].keys()

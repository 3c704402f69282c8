"""What contents.py expects in the files of a snapshot is what stages write."""

from __future__ import annotations

from pathlib import Path

import pytest

import ffpipe
from ffpipe.pipeline.job import make_job
from ffpipe.runs.controller import verified
from ffpipe.runs.folder import open_run

OPTIMIZERS = ["averaging", "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD"]
OPTIMIZERS += ["RMSprop", "Adafactor"]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_what_is_expected_of_a_file_is_what_is_written(kind: str, precision: str, tmp_path: Path) -> None:
    """Every tensor's name, shape and dtype, for every optimiser; nothing else could be gone on from."""
    fields = {
        "training.epochs": 1,
        "training.dims": [64, 5, 4],
        "training.batch_size": 300,
        "training.precision": precision,
        "training.negative_lag": 3,
        "training.optimizer.kind": kind,
        "training.optimizer.options": {"momentum": 0.9} if kind == "SGD" else {},
        "training.head_optimizer.kind": kind,
        "training.data.train_limit": 1300,
        "execution.engine": "local",
        "execution.stages": 1,
        "execution.evaluate_every": 0,
        "execution.snapshot_steps": 2,
        "execution.keep_snapshots": 9,
        "execution.run_dir": str(tmp_path / "run"),
    }
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))
    opened, config = open_run(tmp_path / "run")
    job, store = make_job(config), opened.store(config)
    for folder, step in (("step-00000002", 2), ("step-00000004", 4)):
        assert verified(store, folder, job).step == step

"""Recipes of local losses, a few steps each through two Ray stages, on data of the right shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ffpipe

BATCH, STEPS = 8, 5
SHAPES = {"mnist": (28, 28), "fashion-mnist": (28, 28), "cifar10": (32, 32, 3)}
RECIPES = ("mono-forward", "hinton-lrf", "nokland-mlp", "cwcomp", "dgl", "fashion-cnn", "cifar10-local", "char-lm")


@pytest.mark.parametrize("name", RECIPES)
def test_it_learns_through_two_stages(name: str, tmp_path: Path) -> None:
    """Epochs of one step, so that windows of epochs and milestones come to pass."""
    config = ffpipe.recipe(name)
    fields = {
        "training.epochs": STEPS,
        "training.batch_size": BATCH,
        "training.data.train_limit": BATCH,
        "training.data.validation": 4,
        "training.data.test_count": 4,
        "execution.stages": 2,
        "execution.log_steps": 1,
        "execution.snapshot_steps": 0,
        "execution.run_dir": str(tmp_path / "run"),
    }
    files: dict[str, Any]
    if config.training.inputs == "tokens":
        (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
        files = {"training.data.train": [str(tmp_path / "text.txt")]}
    else:
        chance = np.random.default_rng(1)
        images = chance.integers(0, 256, (BATCH + 8, *SHAPES[config.training.data.source]), dtype=np.uint8)
        np.savez(tmp_path / "data.npz", images=images, labels=np.arange(len(images)) % 10)
        files = {"training.data.source": "npz", "training.data.train": [str(tmp_path / "data.npz")]}
    result = ffpipe.train(ffpipe.override(config, {**fields, **files}))
    summary = result.summary
    assert (summary["status"], summary["steps"], summary["stages"]) == ("finished", STEPS, 2)
    assert len(summary["stage_layers"]) == 2

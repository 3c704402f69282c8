"""A trained run of dense layers, one of each other kind of network, and the test split of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from covering import only
from trained_networks import NETWORKS, kinds

import ffpipe
from ffpipe.data.splits import load_splits

# Every read-out is that of one of these, and every method.
READ = ("dense layers with pairs of rows", "blocks without negatives", "one block", "backpropagation")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> ffpipe.Result:
    fields = {
        "training.epochs": 6,
        "training.dims": [64, 60, 50, 40],
        "execution.engine": "local",
        "execution.run_dir": str(tmp_path_factory.mktemp("runs") / "run"),
    }
    return ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))


@pytest.fixture(scope="session")
def test_split() -> tuple[torch.Tensor, torch.Tensor]:
    split = load_splits(ffpipe.recipe("digits").training.data).test
    rows = np.arange(len(split))
    return torch.from_numpy(split.images(rows)), torch.from_numpy(split.labels(rows))


@pytest.fixture(scope="session", params=only(READ, NETWORKS))
def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ffpipe.Result, tuple[str, ...]]:
    """A run of each kind of network, and its read-outs."""
    fields, readouts = NETWORKS[request.param]
    return kinds(tmp_path_factory.mktemp("kinds") / "run", **fields), readouts

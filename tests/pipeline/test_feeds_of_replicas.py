"""The feeds of all replicas of the first stage return, side by side, what one feed returns of an item."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covering import in_turn
from kinds_of_blocks import network

from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import Job, make_job
from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.replicas import Replicas
from ffpipe.pipeline.schedule import Item, Predict, Train
from ffpipe.planning.layout import make_layout

SHARDS, CPU = 4, torch.device("cpu")
PAIRS, PLAIN, TOKENS = "dense closed form", "residual and skip", "transformer on tokens"
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "hard negatives": (PAIRS, {"negative_lag": 3}, 3),
    "hard negatives in bfloat16": (PAIRS, {"negative_lag": 3, "precision": "bfloat16"}, 1),
    "lock step": (PAIRS, {"negative_lag": 0}, 1),
    "without a head": (PAIRS, {"negatives": "random", "head": False}, 2),
    "images": (PLAIN, {}, 3),
    "tokens": (TOKENS, {}, 2),
}


def job_of(kind: str, fields: dict[str, Any], chunk: int, folder: Path) -> Job:
    config = network(kind, folder)
    training = replace(config.training, batch_size=20, shards=SHARDS, **fields)
    every = 1 if training.data.validation else 0
    execution = replace(config.execution, engine="local", chunk=chunk, evaluate_every=every)
    return make_job(replace(config, training=training, execution=execution))


def tensors(feed: Feed, item: Item) -> Tensors:
    """Return what a feed makes of an item, in memory of its own."""
    return {name: tensor.clone() for name, tensor in (feed.tensors(item) or {}).items()}


@pytest.mark.parametrize(("case", "count"), in_turn(CASES, (2, SHARDS)))
def test_parts_make_the_whole(case: str, count: int, tmp_path: Path) -> None:
    job = job_of(*CASES[case], tmp_path)
    training, replicas = job.config.training, Replicas(SHARDS, (count,))
    feed = Feed(job.network, job.splits, CPU)
    own = [Feed(job.network, job.splits, CPU, replicas.own(0, replica)) for replica in range(count)]
    chance, classes = np.random.default_rng(5), job.network.takes.classes
    predictions = {
        step: chance.dirichlet(np.ones(classes), training.batch_size).astype(np.float32) for step in range(40)
    }
    for each in (feed, *own):
        each.take_predictions(predictions)
    items = list(islice(make_layout(job, 1).plan.items(0), 12))
    for item in items:
        whole, parts = tensors(feed, item), [tensors(each, item) for each in own]
        if isinstance(item, (Train, Predict)):
            found = {name: torch.cat([part[name] for part in parts], dim=1) for name in whole}
            assert all(part.keys() == whole.keys() for part in parts)
        else:  # an evaluation, which the first replica works whole
            found = parts[0]
        assert all(torch.equal(found[name], tensor) for name, tensor in whole.items()), item
    assert isinstance(items[0], Predict if case == "lock step" else Train)

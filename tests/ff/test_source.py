"""Every word of `training.negatives` makes the rows it is the name of, and jitter is of training images alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ffpipe.config.schema import Data, Training
from ffpipe.data.splits import Splits, load_splits
from ffpipe.learn.hybrids import hybrid_images
from ffpipe.learn.jitter import jittered
from ffpipe.learn.negatives import (
    AdaptiveLabels,
    FixedLabels,
    HardLabels,
    Minibatch,
    Negatives,
    RandomLabels,
    ShuffledLabels,
)
from ffpipe.learn.rows import normalize_rows_
from ffpipe.learn.source import Source
from ffpipe.system.rng import generator

SEED, BATCH, STEP, CLASSES = 5, 50, 31, 10


@cache
def digits() -> Splits:
    return load_splits(Data(source="digits", validation=97, test_count=300))


def training(**fields: Any) -> Training:
    data = Data(source="digits", validation=97, test_count=300)
    return Training(dims=(64, 8, 8), batch_size=BATCH, seed=SEED, data=data, **fields)


RULES: dict[str, Callable[[], Negatives]] = {
    "random": lambda: RandomLabels(SEED, CLASSES),
    "fixed": lambda: FixedLabels(SEED, CLASSES, 1400),
    "shuffled": lambda: ShuffledLabels(SEED),
    "hard": lambda: HardLabels(SEED, CLASSES),
    "adaptive": lambda: AdaptiveLabels(SEED, CLASSES),
}


@pytest.mark.parametrize("name", RULES)
def test_negatives_by_name(name: str) -> None:
    source = Source(training(negatives=name, labels="append"), digits())
    predictions = np.random.default_rng(1).dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)
    out = torch.empty(2 * BATCH, 64 + CLASSES)
    right = source.pairs(STEP, predictions, out)
    rows = source.sampler.rows(STEP)
    images = torch.from_numpy(digits().train.images(rows))
    assert right.tolist() == digits().train.labels(rows).tolist()
    assert out[:BATCH, 64:].argmax(1).tolist() == right.tolist()
    expected = RULES[name]()(Minibatch(STEP, rows, images, right.numpy()), predictions)
    assert out[BATCH:, 64:].argmax(1).tolist() == expected.labels.tolist()
    alone = [rule()(Minibatch(STEP, rows, images, right.numpy()), predictions).labels for rule in RULES.values()]
    assert sum((labels == expected.labels).all() for labels in alone) == 1


def test_hybrids_by_name() -> None:
    source = Source(training(negatives="hybrid", labels="none"), digits())
    out = torch.empty(2 * BATCH, 64)
    source.pairs(STEP, None, out)
    images = torch.from_numpy(digits().train.images(source.sampler.rows(STEP)))
    assert torch.equal(out[:BATCH], normalize_rows_(images.clone(), "rms"))
    mixed = hybrid_images(images, (8, 8), generator(SEED, "negatives", STEP))
    assert torch.equal(out[BATCH:], normalize_rows_(mixed, "rms"))


def test_jitter_is_of_training_images_alone_and_the_same_under_every_label() -> None:
    source, still = (Source(training(jitter=pixels, negatives="random"), digits()) for pixels in (1, 0))
    images = torch.from_numpy(digits().train.images(source.sampler.rows(STEP)))
    moved = jittered(images, (8, 8), 1, SEED, STEP)
    assert not torch.equal(moved, images)
    pairs, neutral = torch.empty(2 * BATCH, 64), torch.empty(BATCH, 64)
    source.pairs(STEP, None, pairs)
    source.neutral(STEP, neutral)
    for rows in (pairs[:BATCH], pairs[BATCH:], neutral):
        seen, bare = rows[:, CLASSES:], moved[:, CLASSES:]
        torch.testing.assert_close(seen / seen.norm(dim=1, keepdim=True), bare / bare.norm(dim=1, keepdim=True))
    for first, second in zip(
        source.evaluation(digits().test, 3, 20), still.evaluation(digits().test, 3, 20), strict=True
    ):
        assert torch.equal(first, second)

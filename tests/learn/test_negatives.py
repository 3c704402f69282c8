"""Each rule is a function of the step; label rules give wrong labels only, and some follow the head."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from ffpipe.config.schema import Data, Training
from ffpipe.data.splits import load_splits
from ffpipe.learn.feeder import ForwardForwardFeeder, row_specs
from ffpipe.learn.negatives import (
    FixedLabels,
    Minibatch,
    Negatives,
    adaptive_labels,
    hard_labels,
    make_negatives,
    random_labels,
    shuffled_labels,
)

CLASSES = 5
ROWS = np.arange(1000)
LABELS = ROWS % CLASSES
IMAGES = torch.zeros(1000, 4)
EVEN = np.full((1000, CLASSES), 1 / CLASSES, dtype=np.float32)


def minibatch(step: int, labels: Any = LABELS) -> Minibatch:
    return Minibatch(step, np.arange(len(labels)), torch.zeros(len(labels), 4), labels)


def make(rule: str, seed: int) -> Negatives:
    rules: dict[str, Negatives] = {
        "random": partial(random_labels, seed=seed, classes=CLASSES),
        "fixed": FixedLabels(seed, CLASSES, 1000),
        "hard": partial(hard_labels, seed=seed, classes=CLASSES),
    }
    return rules[rule]


@pytest.mark.parametrize("rule", ["random", "fixed", "hard"])
def test_never_the_right_label_and_every_wrong_one(rule: str) -> None:
    images, drawn = make(rule, 7)(minibatch(3), EVEN)
    assert torch.equal(images, IMAGES)
    assert not (drawn == LABELS).any()
    counts = np.unique((drawn - LABELS) % CLASSES, return_counts=True)[1]
    assert len(counts) == CLASSES - 1
    assert counts.min() > 180  # 250 expected of each


@pytest.mark.parametrize(("rule", "same"), [("random", False), ("fixed", True), ("hard", False)])
def test_what_another_step_draws(rule: str, same: bool) -> None:
    negatives = make(rule, 7)
    first = negatives(minibatch(3), EVEN).labels
    assert (negatives(minibatch(3), EVEN).labels == first).all()
    assert (negatives(minibatch(4), EVEN).labels == first).all() == same
    assert not (make(rule, 8)(minibatch(3), EVEN).labels == first).all()


def test_hard_negatives_follow_the_prediction_without_the_right_label() -> None:
    labels = np.zeros(20_000, dtype=np.int64)
    predictions = np.tile(np.array([0.6, 0.3, 0.1, 0.0], dtype=np.float32), (20_000, 1))
    drawn = partial(hard_labels, seed=1, classes=4)(minibatch(0, labels), predictions).labels
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares[0] == 0
    assert shares[3] == 0
    assert abs(shares[1] - 0.75) < 0.02


def test_hard_negatives_of_a_head_that_is_certain_and_right_are_random() -> None:
    predictions = np.eye(CLASSES, dtype=np.float32)[LABELS]
    drawn = partial(hard_labels, seed=1, classes=CLASSES)(minibatch(0), predictions).labels
    assert not (drawn == LABELS).any()
    assert len(np.unique((drawn - LABELS) % CLASSES)) == CLASSES - 1


@pytest.mark.parametrize("rule", [hard_labels, adaptive_labels])
def test_without_a_prediction_they_are_the_random_ones(rule: Any) -> None:
    drawn = partial(rule, seed=1, classes=CLASSES)(minibatch(2), None).labels
    assert (drawn == partial(random_labels, seed=1, classes=CLASSES)(minibatch(2), None).labels).all()


def test_adaptive_negatives_are_what_the_head_believes_in_most_of_what_is_wrong() -> None:
    predictions = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 0.0, 1.0]], dtype=np.float32)
    labels = np.array([0, 2, 2])
    assert partial(adaptive_labels, seed=1, classes=3)(minibatch(0, labels), predictions).labels.tolist() == [1, 1, 0]


def test_shuffled_negatives_are_the_labels_of_the_minibatch_in_another_order() -> None:
    drawn = partial(shuffled_labels, seed=1)(minibatch(0), None).labels
    assert sorted(drawn) == sorted(LABELS)
    assert 100 < (drawn == LABELS).sum() < 300  # one in five by chance
    assert not (partial(shuffled_labels, seed=1)(minibatch(1), None).labels == drawn).all()


def five_of_ten(**fields: Any) -> Training:
    data = Data(source="digits", validation=97, test_count=300, positive_classes=5)
    return Training(dims=(64, 8, 8), batch_size=50, negatives="others", data=data, **fields)


def test_the_split_of_five_digits() -> None:
    whole, five = load_splits(replace(five_of_ten().data, positive_classes=0)), load_splits(five_of_ten().data)
    assert five.classes == 5
    assert whole.classes == 10
    for name in ("train", "validation", "test"):
        kept, of_all = getattr(five, name), getattr(whole, name)
        labels = of_all.labels(np.arange(len(of_all)))
        assert (kept.labels(np.arange(len(kept))) == labels[labels < 5]).all()
        assert (kept.images(np.arange(len(kept))) == of_all.images(np.flatnonzero(labels < 5))).all()
    assert len(five.train) + len(five.others) == len(whole.train)
    assert five.others.labels(np.arange(len(five.others))).min() == 5


@pytest.mark.parametrize("labels", ["overlay", "none"])
def test_negatives_of_other_digits(labels: Any) -> None:
    """Positive rows are digits 0 to 4 as they are, or under their label; negative ones digits 5 to 9."""
    training = five_of_ten(labels=labels, normalization="l2")
    splits = load_splits(training.data)
    feeder = ForwardForwardFeeder(training, splits, row_specs(training, splits.shape, splits.classes)[0])
    out = torch.empty(100, 64)
    right = feeder.learning(3, None, out)
    assert right.max() < 5
    first = 5 if labels == "overlay" else 0
    for rows, pool in ((out[:50], splits.train), (out[50:], splits.others)):
        known = torch.from_numpy(pool.images(np.arange(len(pool))))[:, first:]
        known = known / known.norm(dim=1, keepdim=True)
        found = rows[:, first:] / rows[:, first:].norm(dim=1, keepdim=True)
        assert ((found @ known.t()).max(1).values > 1 - 1e-5).all()
    if labels == "overlay":
        assert (out[:50, :5].argmax(1) == right).all()
        drawn = out[50:, :5]
        assert ((drawn > 0).sum(1) == 1).all()
        assert len(set(drawn.argmax(1).tolist())) == 5
    assert not torch.equal(feeder.learning(4, None, torch.empty(100, 64)), right)


def test_a_pool_of_others_must_hold_a_minibatch() -> None:
    training = replace(five_of_ten(), batch_size=800)
    with pytest.raises(Exception, match=r"training\.batch_size is 800"):
        make_negatives(training, load_splits(training.data), lambda split, rows, step: torch.zeros(0))

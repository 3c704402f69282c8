"""Each rule gives wrong labels only, as a function of the step, and hard ones follow the head."""

from __future__ import annotations

import numpy as np
import pytest

from ffpipe.ff.negatives import HardNegatives, make_negatives

CLASSES = 5
ROWS = np.arange(1000)
LABELS = ROWS % CLASSES


@pytest.mark.parametrize("rule", ["random", "fixed", "hard"])
def test_never_the_right_label_and_every_wrong_one(rule: str) -> None:
    predictions = np.full((1000, CLASSES), 1 / CLASSES, dtype=np.float32)
    negatives = make_negatives(rule, 7, CLASSES, 1000)
    drawn = negatives(3, ROWS, LABELS, predictions)
    assert not (drawn == LABELS).any()
    counts = np.unique((drawn - LABELS) % CLASSES, return_counts=True)[1]
    assert len(counts) == CLASSES - 1
    assert counts.min() > 180  # 250 expected of each


@pytest.mark.parametrize(("rule", "same"), [("random", False), ("fixed", True), ("hard", False)])
def test_what_another_step_draws(rule: str, same: bool) -> None:
    predictions = np.full((1000, CLASSES), 1 / CLASSES, dtype=np.float32)
    negatives = make_negatives(rule, 7, CLASSES, 1000)
    first = negatives(3, ROWS, LABELS, predictions)
    assert (negatives(3, ROWS, LABELS, predictions) == first).all()
    assert (negatives(4, ROWS, LABELS, predictions) == first).all() == same
    assert not (make_negatives(rule, 8, CLASSES, 1000)(3, ROWS, LABELS, predictions) == first).all()


def test_hard_negatives_follow_the_prediction_without_the_right_label() -> None:
    labels = np.zeros(20_000, dtype=np.int64)
    predictions = np.tile(np.array([0.6, 0.3, 0.1, 0.0], dtype=np.float32), (20_000, 1))
    drawn = HardNegatives(1, 4)(0, labels, labels, predictions)
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares[0] == 0
    assert shares[3] == 0
    assert abs(shares[1] - 0.75) < 0.02


def test_hard_negatives_of_a_head_that_is_certain_and_right_are_random() -> None:
    predictions = np.eye(CLASSES, dtype=np.float32)[LABELS]
    drawn = HardNegatives(1, CLASSES)(0, ROWS, LABELS, predictions)
    assert not (drawn == LABELS).any()
    assert len(np.unique((drawn - LABELS) % CLASSES)) == CLASSES - 1


def test_hard_negatives_without_a_prediction_are_the_random_ones() -> None:
    hard, random = HardNegatives(1, CLASSES), make_negatives("random", 1, CLASSES, 1000)
    assert (hard(2, ROWS, LABELS, None) == random(2, ROWS, LABELS, None)).all()

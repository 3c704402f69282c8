"""Which rows a stage's head learns from: held against a head that is given them by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.learn.dense import Layer
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.schedule import Predict, Train
from ffpipe.pipeline.stage import Stage, StageSpec
from ffpipe.pipeline.streams import Streams

BATCH, FEATURES, CLASSES, STEP = 6, 5, 3, 0
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def training(**fields: Any) -> Training:
    return Training(dims=(FEATURES, 7, 8), batch_size=BATCH, **fields)


def stage(training: Training) -> Stage:
    """Both layers and the head."""
    spec = StageSpec(
        index=0,
        stages=1,
        layers=range(2),
        training=training,
        width=FEATURES,
        classes=CLASSES,
        steps=10,
        steps_per_epoch=5,
        log_steps=5,
        device="cpu",
    )
    return Stage(spec, lambda *_: None)


def parts(of: Stage) -> list[Layer | Head]:
    assert of.head is not None
    return [*of.layers, of.head]


def rows(count: int) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(1))


def network(training: Training) -> list[Layer]:
    return [Layer(i, FEATURES if not i else 7, 7 + i, training, Workspace(torch.device("cpu"))) for i in range(2)]


def head_after(training: Training, activities: Tensor) -> dict[str, Tensor]:
    """Of the second layer, which is what the head sees."""
    head = Head(training, CLASSES, Workspace(torch.device("cpu")))
    head.step(0, [activities], LABELS, 1.0)
    return head.weights()


@pytest.mark.parametrize(
    ("fields", "roles", "seen"),
    [
        ({"negatives": "random"}, 3, slice(2 * BATCH, None)),
        ({"negatives": "hybrid", "labels": "none"}, 2, slice(BATCH)),
        ({"negatives": "random", "dropout": 0.3}, 3, slice(2 * BATCH, None)),
    ],
    ids=["neutral rows", "positive rows where there are no labels", "neutral rows with dropout"],
)
def test_the_head_learns_from(fields: dict[str, Any], roles: int, seen: slice) -> None:
    made, of_stage = training(**fields), stage(training(**fields))
    given = rows(roles * BATCH)
    of_stage.handle(Train(STEP, 1), Streams(given.unsqueeze(0), LABELS.unsqueeze(0)))
    for layer in network(made):
        out = torch.empty(len(given), layer.width)
        layer.step(STEP, given, BATCH, 1.0, out)
        given = out
    assert of_stage.head is not None
    expected = head_after(made, given[seen])
    assert all(torch.equal(weight, expected[name]) for name, weight in of_stage.head.weights().items())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_lock_step_neutral_rows_behind_the_pairs_of_the_minibatch_before_are_as_if_alone(dropout: float) -> None:
    made = training(negatives="hard", negative_lag=0, dropout=dropout)
    together, apart, given = stage(made), stage(made), rows(3 * BATCH).unsqueeze(0)
    labels, ahead = LABELS.unsqueeze(0), Train(STEP, 1, ahead=True)
    together.handle(ahead, Streams(given, labels))
    apart.handle(Train(STEP, 1), Streams(given[:, : 2 * BATCH]))
    apart.handle(Predict(STEP + 1), Streams(given[:, 2 * BATCH :], labels))
    assert together.predictions(ahead).keys() == {STEP + 1}
    for one, other in zip(parts(together), parts(apart), strict=True):
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())
    assert np.array_equal(together.predictions(ahead)[STEP + 1], apart.predictions(Predict(STEP + 1))[STEP + 1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_lock_step_neutral_rows_go_ahead_and_are_dropped_as_they_would_be_behind_the_pairs(dropout: float) -> None:
    made = training(negatives="hard", negative_lag=0, dropout=dropout)
    of_stage, given = stage(made), rows(3 * BATCH)
    of_stage.handle(Predict(STEP), Streams(given[2 * BATCH :].unsqueeze(0), LABELS.unsqueeze(0)))
    # With the weights that these layers have: none of them has made its step.
    for layer in network(made):
        out = torch.empty(len(given), layer.width)
        layer.step(STEP, given, BATCH, 1.0, out)
        given = out
    assert of_stage.head is not None
    expected = head_after(made, given[2 * BATCH :])
    for name, weight in of_stage.head.weights().items():  # of six rows and of eighteen: their sums may differ in bits
        torch.testing.assert_close(weight, expected[name])

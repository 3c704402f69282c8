"""Measurements, each made once and for several: blocks that are alike, and processors that are shared."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from ffpipe import RunFailed, override, recipe
from ffpipe.pipeline.job import Model, make_job
from ffpipe.planning.calibrate import LARGEST_BATCH, Costs, measure_costs, pooled


def test_those_that_share_a_processor_have_the_median_of_what_they_found() -> None:
    found = [Costs((1.0, 4.0), 0.1), Costs((9.0, 9.0), 9.0), Costs((3.0, 2.0), 0.3), Costs((2.0, 3.0), 0.2)]
    shared = Costs((2.0, 3.0), 0.2)
    assert pooled(found, ["host", "another", "host", "host"]) == [shared, found[1], shared, shared]


@pytest.mark.parametrize(("batch", "scale"), [(50, 1.0), (2 * LARGEST_BATCH, 2.0)])
def test_blocks_that_are_alike_are_timed_once_and_large_minibatches_in_part(batch: int, scale: float) -> None:
    seconds = itertools.count(1)
    fields = {"training.dims": [64, 50, 50, 50], "training.batch_size": batch, "training.negatives": "random"}
    network = make_job(override(recipe("digits"), fields)).network
    costs = measure_costs(network, torch.device("cpu"), lambda step, _: (step(), float(next(seconds)))[1])
    assert costs == Costs((1.0 * scale, 2.0 * scale, 2.0 * scale), 3.0 * scale, costs.after)
    # Their results leave before the gradients.
    assert all(0 < after < whole for after, whole in zip(costs.after, costs.layers, strict=True))
    assert costs.after[1] == costs.after[2]


@pytest.mark.parametrize(
    ("batch", "accumulation", "sizes"),
    [
        (600, 300, [2] * 256),
        (700, 7, [100] * 5),
        (1200, 1, [LARGEST_BATCH]),
        (1200, 2, [LARGEST_BATCH]),
    ],
)
def test_minibatches_in_parts_are_timed_by_whole_parts(batch: int, accumulation: int, sizes: list[int]) -> None:
    """Batch normalisation refuses a part of one example."""
    seen: list[int] = []

    class Seen(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta and (x == 1).all():  # rows that are timed, and none of a trial
                seen.append(len(x))
            return super().forward(x)

    def blocks() -> list[nn.Module]:
        return [nn.Sequential(Seen(), nn.Linear(64, 10), nn.BatchNorm1d(10))]

    fields = {"training.batch_size": batch, "training.accumulation": accumulation, "execution.stages": 1}
    network = make_job(override(recipe("digits-cnn"), fields), Model(function=blocks)).network
    seen.clear()
    costs = measure_costs(network, torch.device("cpu"), lambda step, _: (step(), 1.0)[1])
    assert seen == sizes
    assert costs.layers == (batch / sum(sizes),)
    # After the result leaves there is a share of the last of all parts alone.
    assert 0 < costs.after[0] < costs.layers[0] * len(sizes) / accumulation


class Unforeseen(nn.Module):
    """A layer that fails on the rows of ones on which a step is timed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and (x == 1).all():
            raise LookupError("here")
        return torch.as_tensor(self.layer(x.flatten(1)))


def test_a_block_that_fails_when_it_is_timed_is_named() -> None:
    network = make_job(
        override(recipe("digits-cnn"), {"execution.stages": 1}), Model(function=lambda: [Unforeseen()])
    ).network
    with pytest.raises(RunFailed, match=r"block 0 \(Unforeseen\) failed when its step was timed: .*LookupError: here"):
        measure_costs(network, torch.device("cpu"))

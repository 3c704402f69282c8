"""Bytes in the object store as tables, worked out by hand: 2 B rows to train on, B neutral ones, 4 bytes a number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from blueprints import Joined
from torch import nn

from ffpipe import UserError, override, recipe
from ffpipe.learn.local_item import Local
from ffpipe.pipeline.job import Job, Model, make_job
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.planning.layout import Measured, make_layout
from ffpipe.planning.memory import USABLE, NetworkSizes, StoreCapacity, fitting, footprints

DIMS = [64, 1000, 2000, 500, 300]
MB = 10**6
# The labels of a minibatch of 100, which are in two messages. The 27 images that are evaluated in its place have fewer
# rows.
LABELS = 2 * 100 * 8


def job(**fields: Any) -> Job:
    plain = {"training.dims": DIMS, "training.batch_size": 100, "training.negatives": "random"}
    return make_job(override(recipe("digits"), {**plain, **fields}))


def specs(stages: int, **fields: Any) -> tuple[StageSpec, ...]:
    return make_layout(job(**fields), stages).stages


def each(stages: int, nodes: str, **fields: Any) -> dict[str, int]:
    return {node: f.each for node, f in footprints(specs(stages, **fields), nodes).items()}


def test_a_single_stage_sends_nothing() -> None:
    assert footprints(specs(1), "a") == {}
    assert fitting(specs(1), StoreCapacity("a", {"a": 0}, str)) is None


def test_the_widest_edge_counts() -> None:
    """Cut after the second layer of 2000; the head sees layers 1 to 3, and the second is the rows themselves."""
    assert [list(spec.layers) for spec in specs(2)] == [[0, 1], [2, 3]]
    assert each(2, "aa") == {"a": 300 * 2000 * 4 + LABELS}
    # 20 images under 10 labels are as many rows as a minibatch, and have labels and goodness beside them.
    assert each(2, "aa", **{"training.head": False}) == {"a": 200 * 2000 * 4 + 2 * 20 * 8 + 200 * 4}


def test_features_for_the_head_wait_beside_the_rows() -> None:
    """One layer a stage. Layer 1's output, 2000 wide, goes past stage 2, beside rows 2000 and 500 wide."""
    wide, features = 300 * 2000 * 4 + LABELS, 100 * 2000 * 4
    assert each(4, "aaaa") == {"a": wide + features}
    only_rows = {"a": 300 * 1000 * 4 + LABELS, "c": 300 * 2000 * 4 + LABELS}
    assert each(4, "abcd") == {**only_rows, "b": wide + features, "d": 300 * 500 * 4 + features + LABELS}


@pytest.mark.parametrize(
    ("fields", "rows", "number"),
    [
        ({"training.precision": "bfloat16"}, 300, 2),
        ({"training.precision": "float64"}, 300, 8),
        ({"training.batch_size": 2}, 11, 4),  # an evaluation has a message of one image at least
    ],
)
def test_the_bytes_of_a_number_and_small_batches(fields: dict[str, Any], rows: int, number: int) -> None:
    rest = each(2, "aa", **fields)["a"] - rows * 2000 * number
    assert 0 <= rest <= 2 * 100 * 8 + 20 * 10 * 8


def test_hard_negatives_bring_predictions_back() -> None:
    lag = 48
    hard = footprints(specs(2, **{"training.negatives": "hard", "training.negative_lag": lag}), "ab")
    random = footprints(specs(2), "ab")
    assert {node: f.fixed for node, f in hard.items()} == {"a": lag * 100 * 10 * 4, "b": lag * 100 * 10 * 4}
    assert all(hard[node].each == random[node].each + 100 * 10 * 4 for node in "ab")


def test_in_lock_step_a_message_has_the_rows_that_it_has_at_a_lag() -> None:
    """The neutral ones are of the next minibatch."""
    exact, lag = ({"training.negatives": "hard", "training.negative_lag": lag} for lag in (0, 48))
    assert each(3, "aab", **exact) == each(3, "aab", **lag)


def test_a_footprint_and_the_store_it_fits_in() -> None:
    footprint = footprints(specs(2), "aa")["a"]
    for window in (1, 7, 100):
        capacity = footprint.capacity(window)
        assert capacity % MB == 0
        assert footprint.held(window) <= capacity * USABLE
        assert window <= footprint.most(capacity) < window + 2
        assert footprint.most(int(footprint.held(window) / USABLE) - MB) < window


def test_images_evaluated_in_the_place_of_a_minibatch() -> None:
    cases: list[dict[str, Any]] = [{}, {"training.head": False}, {"training.batch_size": 1}]
    assert [job(**fields).network.examples_at_once for fields in cases] == [27, 20, 1]
    assert job(**{"training.labels": "none", "training.negatives": "hybrid"}).network.examples_at_once == 200
    assert job(**{"training.negatives": "none"}).network.examples_at_once == 100  # an example is one row


@pytest.mark.parametrize(
    ("fields", "examples"),
    [
        ({}, 8 * 27),  # whole portions
        ({"training.batch_size": 4}, 8 * 1),
        ({"training.batch_size": 2}, 4),  # 48 rows are those of four examples, of 11 rows each
        ({"training.batch_size": 2, "execution.chunk": 1}, 1),
    ],
)
def test_an_evaluation_has_messages_of_no_more_rows_than_a_chunk(fields: dict[str, Any], examples: int) -> None:
    asked = job(**fields)
    layout = make_layout(asked, 1)
    assert layout.plan.evaluation_batch == examples
    rows = NetworkSizes(asked.network, layout.plan.chunk).rows_of_message
    assert examples * asked.network.rows_of_example <= rows


def kept_outputs() -> list[Local]:
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000))
    return [
        Local(first, keep="first"), Local(nn.Linear(1000, 500)), Local(nn.Linear(500, 2000)),
        Local(Joined(2000 + 1000, 300), use=("first",)),
    ]  # fmt: skip


def test_a_kept_output_waits_beside_the_rows_of_later_edges() -> None:
    """One block a stage, 100 examples a minibatch. Block 0's output waits for block 3 until that begins."""
    fields = {"training.negatives": "none", "training.head": False, "training.goodness_from": 0}
    config = override(recipe("digits"), {"training.batch_size": 100, **fields})
    specs = make_layout(make_job(config, Model(function=kept_outputs)), 4).stages
    kept, labels, scores = 100 * 1000 * 4, 2 * 100 * 8, 100 * 10 * 4
    found = {node: f.each for node, f in footprints(specs, "abcd").items()}
    ends = kept + 100 * 2000 * 4 + labels + scores
    assert found == {
        "a": 100 * 1000 * 4 + kept + labels + scores,
        "b": 100 * 1000 * 4 + labels + scores,
        "c": 100 * 2000 * 4 + labels + scores,
        "d": ends,
    }
    assert {node: f.each for node, f in footprints(specs, "aaaa").items()} == {"a": ends}


def larger(size: int) -> str:
    return f"a store of {size}"


@pytest.mark.parametrize(
    ("window", "chunk", "capacity", "says"),
    [
        (20, 0, 10 * MB, "must have 65 MB for that and has 10 MB: give --execution.window 3, or a store of 65000000"),
        (20, 5, 10 * MB, "give --execution.window 3 --execution.chunk 3, or a store of 65000000"),
        (0, 5, 10 * MB, "give --execution.chunk 3, or a store of 17000000"),
        (0, 0, 3 * MB, "1 minibatch.* must have 4 MB for that and has 3 MB: give --stages 1, or a store of 4000000"),
        (20, 0, 65 * MB, ""),
        (3, 3, 10 * MB, ""),
        (0, 0, 10 * MB, ""),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(window: int, chunk: int, capacity: int, says: str) -> None:
    room = StoreCapacity("ab", {"a": 10**12, "b": capacity}, larger)
    cut = specs(2)
    if not says:
        fitting(cut, room, window, chunk)
        return
    with pytest.raises(UserError, match=says):
        fitting(cut, room, window, chunk)


def test_a_window_that_is_chosen_fits() -> None:
    asked = job(**{"training.negatives": "hard", "training.negative_lag": 48})
    free = make_layout(asked, 2, room=StoreCapacity("aa", {"a": 10**12}, larger))
    assert free == make_layout(asked, 2)
    for capacity in (70 * MB, 30 * MB, 10 * MB, 5 * MB):
        room = StoreCapacity("aa", {"a": capacity}, larger)
        layout = make_layout(asked, 2, room=room)
        fits = fitting(layout.stages, room)
        assert fits is not None
        assert 1 <= layout.plan.chunk <= layout.window <= fits
        assert layout.window == min(free.window, fits) or layout.plan.chunk < free.plan.chunk


def test_where_messages_are_dear_the_chunk_shrinks_with_the_store() -> None:
    asked = job()
    costs = replace(make_measured(asked), message_seconds=1.0)
    sizes = [make_layout(asked, 2, costs, StoreCapacity("aa", {"a": c * MB}, larger)) for c in (1000, 30, 5)]
    assert [(layout.plan.chunk, layout.window) for layout in sizes] == [(8, 48), (2, 9), (1, 1)]


def make_measured(job: Job) -> Measured:
    from ffpipe.planning.calibrate import Costs

    return Measured([Costs((0.01,) * job.layers, 0.0)] * 2, 0.0)

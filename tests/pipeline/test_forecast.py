"""Loads of a config, and what a run would do by them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from ffpipe import UserError, override, recipe
from ffpipe.pipeline.job import Job, make_job
from ffpipe.pipeline.replicas import replicas_of
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Train
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.estimate import draft_layout, stages_here
from ffpipe.planning.forecast import (
    Conditions,
    costs_at,
    evaluated_examples,
    evaluation_seconds,
    exchange_seconds,
    forecast,
    load_of,
)
from ffpipe.planning.layout import Measured, make_layout
from ffpipe.planning.simulate import LinkCosts

FREE = LinkCosts(item=0.0, call=0.0, copy=math.inf, link=math.inf, latency=0.0)


def job_of(**fields: Any) -> Job:
    quick = {"training.dims": [64, 50, 40, 30, 20], "training.epochs": 100, "execution.stages": 0}
    return make_job(override(recipe("digits"), quick | fields))


def conditions_of(seconds: float, links: LinkCosts = FREE, **changes: Any) -> Conditions:
    return replace(Conditions(lambda stage, copies: Costs((seconds,) * 4, 0.0), links, 0, 64.0, False), **changes)


def test_equal_layers_and_free_messages_scale_with_the_stages() -> None:
    for stages in (1, 2, 4):
        found = forecast(job_of(), stages, conditions_of(0.02))
        assert len(found.layout.stages) == stages
        assert found.steady_seconds == pytest.approx(0.08 / stages)
        assert found.efficiency == pytest.approx(1.0)
        assert found.bottleneck.startswith("stage ")
    assert found.one_stage_seconds == pytest.approx(0.08)


def test_what_bounds_a_run_is_named() -> None:
    training = {"training.negatives": "random"}
    slow_link = conditions_of(1e-6, replace(FREE, link=1e6), stages_per_host=1)
    assert forecast(job_of(**training), 4, slow_link).bottleneck == "the network of host 1"
    one_core = conditions_of(0.02, cores=1.0, computes=True)
    found = forecast(job_of(**training), 4, one_core)
    assert found.bottleneck == "the processors of host 0"
    assert found.efficiency == pytest.approx(0.25, rel=0.01)
    far = conditions_of(0.001, replace(FREE, latency=0.5), stages_per_host=1)
    assert "predictions on their way back" in forecast(job_of(), 4, far).bottleneck
    assert "messages (window" in forecast(job_of(**training), 4, far).bottleneck


def test_the_whole_run_is_filling_steady_work_and_draining() -> None:
    job = job_of(**{"execution.chunk": 2, "training.negatives": "random"})
    found = forecast(job, 4, conditions_of(0.02))
    # The first chunk reaches the end after four stages; from then on a chunk comes every 40 ms.
    assert found.seconds == pytest.approx((job.steps + 3 * 2) * 0.02)


def test_results_that_leave_early_fill_and_drain_sooner() -> None:
    job = job_of(**{"execution.chunk": 1, "training.negatives": "random"})
    early = conditions_of(0.0, costs=lambda stage, copies: Costs((0.02,) * 4, 0.0, (0.005, 0.01, 0.015, 0.02)))
    found = forecast(job, 4, early)
    assert found.layout.leaves_early
    # Three stages pass a minibatch on after 15, 10 and 5 ms; the last one needs all of 20.
    assert found.seconds == pytest.approx(0.015 + 0.01 + 0.005 + job.steps * 0.02)
    assert found.steady_seconds == pytest.approx(0.02)


def test_the_rate_of_a_run_that_is_too_short_to_fill_the_pipeline() -> None:
    quick = {"training.negative_lag": 2, "execution.chunk": 1, "training.batch_size": 100}
    short, long = (forecast(job_of(**quick, **{"training.epochs": n}), 4, conditions_of(0.02)) for n in (1, 100))
    # Two minibatches at a time, each through four stages.
    assert short.steady_seconds == long.steady_seconds == pytest.approx(0.04)
    assert short.seconds == pytest.approx((14 - 2) / 2 * 0.08 + 0.02 + 0.08)


def test_lock_step_takes_turns() -> None:
    job = job_of(**{"training.negative_lag": 0})
    found = forecast(job, 4, conditions_of(0.02))
    # Each minibatch through all stages, and with it the neutral rows of the next, before that one leaves.
    assert found.steady_seconds == pytest.approx(0.08)


def test_the_network_carries_what_the_stages_send() -> None:
    job = job_of(**{"execution.chunk": 1})
    found = forecast(job, 4, conditions_of(0.02, replace(FREE, link=1e9), stages_per_host=1))
    rows, features = 3 * 50 * 40 * 4, 50 * 40 * 4
    # The second layer's rows go on, and past the next stage its features for the head.
    sent = max(3 * 50 * 50 * 4, rows + features)
    assert found.link_rate == pytest.approx(sent / 0.02, rel=0.02)


def test_loads_of_stages() -> None:
    job = job_of()
    specs = make_layout(job, 4).stages
    loads = [load_of(spec, Costs((1.0, 2.0, 3.0, 4.0), 0.5)) for spec in specs]
    assert [load.seconds(Train(0, 2)) for load in loads] == [2.0, 4.0, 6.0, 9.0]
    rows = [2 * 3 * 50 * width * 4 for width in (50, 40, 30)]
    # The head's view of layer 1 goes past stage 2; layer 2's are the rows of the last stage.
    parts = [{1: rows[0]}, {2: rows[1], 3: 2 * 50 * 40 * 4}, {3: rows[2]}, {}]
    assert [load.parts(Train(0, 2)) for load in loads] == parts
    # Worked out once for all items of a size: a simulation asks for thousands, of hundreds of stages.
    assert all(load.parts(Train(2, 2)) is load.parts(Train(0, 2)) for load in loads)
    assert [load.senders for load in loads] == [(), (0,), (1,), (1, 2)]
    exact = job_of(**{"training.negative_lag": 0})
    specs = make_layout(exact, 4).stages
    ahead = load_of(specs[1], Costs((1.0,) * 4, 0.0))
    assert ahead.seconds(Predict(0)) + ahead.seconds(Train(0, 1)) == pytest.approx(1.0)
    assert ahead.seconds(Train(0, 1, ahead=True)) == pytest.approx(1.0)
    items = (Predict(0), Train(0, 1), Train(0, 1, ahead=True))
    features = 50 * 40 * 4
    assert [ahead.parts(item) for item in items] == [
        {2: roles * 50 * 40 * 4, 3: seen} for roles, seen in ((1, features), (2, 0), (3, features))
    ]


def after_of(job: Job, early: bool, *items: Item) -> list[list[float]]:
    """Return the seconds after the result of each item, by stage."""
    costs = Costs((1.0, 2.0, 3.0, 4.0), 0.5, (0.4, 0.8, 1.2, 1.6))
    counts = replicas_of(job.config.execution, 2)
    specs = make_layout(job, 2, Measured([costs] * 2, 0.0), counts=counts).stages
    return [[load.after(item) for item in items] for load in (load_of(spec, costs, FREE, early) for spec in specs)]


def test_what_is_left_when_a_result_leaves() -> None:
    """It is the last block's part after its result, for the last minibatch of an item."""
    items = (Train(0, 1), Train(0, 8))
    # Layers 0 to 2 are the first stage. The last stage hands nothing on.
    assert after_of(job_of(), True, *items) == [[1.2, 1.2], [0.0, 0.0]]
    assert after_of(job_of(), False, *items) == [[0.0, 0.0], [0.0, 0.0]]
    # Neutral rows behind a minibatch pass when it has been learned from; alone they are not learned from.
    exact = job_of(**{"training.negative_lag": 0})
    assert after_of(exact, True, Train(0, 1), Train(0, 1, ahead=True), Predict(0))[0] == [1.2, 0.0, 0.0]
    # Shards are worked one after the other, on however many replicas.
    for replicas in (1, 2):
        shards = {"training.shards": 2, "execution.replicas": replicas}
        datagram = exchange_seconds(make_layout(job_of(**shards), 1, counts=[replicas]).stages[0], [0], FREE)
        assert after_of(job_of(**shards), True, Train(0, 1))[0] == [pytest.approx(0.6 + datagram)]
        assert (datagram > 0) == (replicas > 1)


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, 2 / 5),  # three roles forward, then two gradients
        ({"training.head": False, "training.negatives": "random"}, 2 / 4),
        ({"training.phases": "apart"}, 1 / 5),  # the positive rows' update comes before the negative rows
        ({"training.hand_on": "after"}, 0.0),
        ({"training.local_steps": 2}, 7 / 10),
    ],
)
def test_operations_after_a_result(fields: dict[str, object], share: float) -> None:
    costs = costs_at(1e9, job_of(**fields).network)
    assert costs.after == pytest.approx([share * each for each in costs.layers])


def test_operations_after_the_result_of_a_module() -> None:
    config = override(recipe("digits-cnn"), {"execution.stages": 1})
    costs = costs_at(1e9, make_job(config).network)
    # Backward passes have one product where forward ones have one, and a second where there is something before.
    assert all(0.4 * each < after < 0.7 * each for each, after in zip(costs.layers, costs.after, strict=True))


def test_costs_at_a_speed_that_is_given() -> None:
    costs = costs_at(1e9, job_of(**{"training.labels": "append"}).network)
    assert costs.layers == pytest.approx(
        [2 * 5 * 50 * fan_in * width / 1e9 for fan_in, width in pairwise((74, 50, 40, 30, 20))]
    )
    assert costs.head == pytest.approx(4 * 50 * (40 + 30 + 20) * 10 / 1e9)


def test_layers_cost_what_they_do_among_as_many_as_a_host_has_cores_for() -> None:
    def first(conditions: Conditions, *counts: int) -> float:
        return conditions.costs_among(counts)[0].layers[0]

    conditions = conditions_of(0.0, costs=lambda _, copies: Costs((0.02 * copies,) * 4, 0.0), cores=2.0, computes=True)
    assert [first(conditions, *[1] * stages) for stages in (1, 2, 4)] == [0.02, 0.04, 0.04]
    assert first(conditions, 2) == 0.04
    assert first(replace(conditions, stages_per_host=1), 1, 1, 1, 1) == 0.02
    assert first(replace(conditions, computes=False), 1, 1, 1, 1) == 0.02
    assert first(replace(conditions, apart=frozenset([1, 2, 3])), 1, 1, 1, 1) == 0.02
    assert first(replace(conditions, apart=frozenset([1, 3]), stages_per_host=2), 1, 1, 1, 1) == 0.02


def test_stages_on_different_devices_have_costs_of_their_own() -> None:
    seconds = (0.01, 0.03)

    def costs(stage: int, copies: int) -> Costs:
        return Costs((seconds[stage],) * 4, 0.0)

    found = forecast(job_of(), 2, conditions_of(0.0, costs=costs))
    assert [len(spec.layers) for spec in found.layout.stages] == [3, 1]
    assert found.step_seconds == pytest.approx(0.03)
    assert found.steady_seconds == pytest.approx(0.03)
    assert found.one_stage_seconds == pytest.approx(0.04)


def test_a_stage_with_a_device_of_its_own_leaves_the_cores_to_others() -> None:
    one_core = conditions_of(0.02, cores=1.0, computes=True)
    job = job_of(**{"training.negatives": "random"})
    assert forecast(job, 2, one_core).steady_seconds == pytest.approx(0.08, rel=0.01)
    on_gpu = replace(one_core, apart=frozenset([0]))
    assert forecast(job, 2, on_gpu).steady_seconds == pytest.approx(0.04, rel=0.01)


@pytest.mark.parametrize(("epochs", "every"), [(1, 0), (5, 0), (5, 1), (5, 2), (6, 3), (7, 9)])
def test_every_example_of_an_evaluation_is_counted(epochs: int, every: int) -> None:
    fields = {"training.epochs": epochs, "execution.evaluate_every": every, "execution.engine": "local"}
    job = make_job(override(recipe("digits"), fields))
    items = make_layout(job, 1).plan.items()
    assert evaluated_examples(job) == sum(item.count for item in items if isinstance(item, Evaluate)) > 0


@pytest.mark.parametrize(
    ("fields", "products"),
    [
        ({}, 5),  # three roles forward, two with a gradient
        ({"training.head": False, "training.negatives": "random"}, 4),
        ({"training.readout": "softmax"}, 5),
        ({"training.local_steps": 10}, 50),
        ({"training.hand_on": "after"}, 8),
        # By autograd with the gradient of what came in, but for neutral rows.
        ({"training.blocks": [{"kind": "dense", "options": {"width": 9}}] * 2}, 7),
    ],
)
def test_evaluations_pass_forward_alone(fields: dict[str, object], products: int) -> None:
    job = make_job(override(recipe("digits"), {**fields, "execution.engine": "local"}))
    passes = evaluated_examples(job) * job.network.rows_of_example / job.config.training.batch_size
    assert evaluation_seconds(job, 1.0) == pytest.approx(passes / products)


def test_the_forward_pass_of_convolutions_is_counted() -> None:
    """Each block has one and makes no gradient of its input; its class head has three products."""
    job = make_job(override(recipe("digits-cnn"), {"execution.stages": 0}))
    passes = evaluated_examples(job) * job.network.rows_of_example / job.config.training.batch_size
    assert 2.0 < passes / evaluation_seconds(job, 1.0) < 2.1


def test_one_replica_makes_the_evaluations() -> None:
    replicas = {"training.shards": 2, "training.batch_size": 50, "execution.replicas": 2}
    one, two = (forecast(job_of(**fields), 2, conditions_of(0.02)) for fields in ({}, replicas))
    assert one.alone_seconds == two.alone_seconds == one.step_seconds == pytest.approx(0.04)
    assert two.step_seconds < 0.6 * one.step_seconds


def test_a_window_that_is_larger_than_the_run() -> None:
    """It is simulated no longer than one in which all of the run is in flight, nor than a pipeline takes to fill."""
    random = {"training.negatives": "random", "execution.window": 50_000_000, "execution.chunk": 8}
    for epochs in (100, 1_000_000):
        found = forecast(job_of(**random, **{"training.epochs": epochs}), 1, conditions_of(0.02))
        assert found.steady_seconds == pytest.approx(0.08)
        assert found.seconds == pytest.approx(epochs * 28 * 0.08)


def test_an_object_store_of_a_given_size_bounds_chunk_and_window() -> None:
    large = {"training.dims": [64, 4000, 4000, 4000, 4000], "execution.stages": 4}
    small = {**large, "execution.object_store_bytes": 80_000_000}
    # Messages are so dear that they would be as large as they can.
    dear = conditions_of(1e-6, replace(FREE, answer=1.0))
    for layouts in (
        [draft_layout(job_of(**fields)) for fields in (large, small)],
        [forecast(job_of(**fields), 4, dear).layout for fields in (large, small)],
    ):
        free, bound = ((layout.plan.chunk, layout.window) for layout in layouts)
        assert (free, bound) == ((4, 24), (3, 18))
    for make in (draft_layout, lambda job: forecast(job, 4, dear)):
        with pytest.raises(
            UserError, match=r"give --execution\.window 18, or --execution\.object-store-bytes 103000000"
        ):
            make(job_of(**small, **{"execution.window": 24}))


@pytest.mark.parametrize("cpus", [1e-320, 1e-300])
def test_next_to_no_part_of_a_cpu(cpus: float) -> None:
    assert stages_here(job_of(**{"execution.cpus": cpus})) == 4

"""Cuts, memory and forecasts with replicas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ffpipe import UserError, override, recipe
from ffpipe.config.execution import Execution
from ffpipe.engines.ray.placement import Host, crowding, most_places, places_of, shortage
from ffpipe.pipeline.job import Job, make_job
from ffpipe.pipeline.replicas import smaller_and_smaller
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.estimate import estimate_layout
from ffpipe.planning.forecast import Conditions, forecast, link_costs
from ffpipe.planning.layout import Measured, make_layout
from ffpipe.planning.memory import NetworkSizes, StoreCapacity, fitting, footprints, gradient_bytes, sums_bytes

FIELDS = {"training.shards": 4, "training.batch_size": 100, "training.dims": [64, 60, 50, 40, 30]}


def job(**fields: Any) -> Job:
    return make_job(override(recipe("digits"), {**FIELDS, **fields}))


@pytest.mark.parametrize(
    ("counts", "cut"),
    [((1, 1), [range(2), range(2, 4)]), ((4, 1), [range(3), range(3, 4)]), ((1, 4), [range(1), range(1, 4)])],
)
def test_the_cut_gives_more_blocks_to_more_replicas(counts: tuple[int, ...], cut: list[range]) -> None:
    measured = Measured([Costs((1.0, 1.0, 1.0, 1.0), 0.0)] * 2, 0.001)
    layout = make_layout(job(), 2, measured, counts=counts)
    assert [spec.layers for spec in layout.stages] == cut
    assert [(spec.index, spec.replica) for spec in layout.workers] == [
        (stage, replica) for stage, count in enumerate(counts) for replica in range(count)
    ]


def test_memory_of_a_replica() -> None:
    asked = job()
    weights = gradient_bytes(NetworkSizes(asked.network, 1), range(4))
    assert weights == max(gradient_bytes(NetworkSizes(asked.network, 1), range(n, n + 1)) for n in range(4))
    # A level of the tree for 1, 2 and 4 shards; those of three others and the sums of these.
    assert sums_bytes(NetworkSizes(asked.network, 1), range(4)) == 3 * weights
    assert sums_bytes(NetworkSizes(asked.network, 1, 4), range(4)) == (1 + 3 + 2) * weights
    assert sums_bytes(NetworkSizes(job(**{"training.shards": 1}).network, 1), range(4)) == 0


def test_the_object_store_of_one_stage_has_what_replicas_exchange() -> None:
    asked = job()
    assert footprints(make_layout(asked, 1).stages, "a") == {}
    layout = make_layout(asked, 1, counts=(4,))
    found = footprints(layout.stages, "a")["a"]
    assert found.fixed >= 2 * 4 * gradient_bytes(NetworkSizes(asked.network, 1), range(4))
    training = asked.config.training
    assert found.each == 4 * training.batch_size * asked.network.takes.classes * 4  # predictions in float32, for each
    plain = make_layout(job(**{"training.negatives": "random"}), 1, counts=(4,))
    only_sums = footprints(plain.stages, "a")["a"]
    assert only_sums.each == 0
    assert only_sums.most(10 * only_sums.fixed) > asked.steps
    ray = replace(asked, config=override(asked.config, {"execution.engine": "ray"}))
    assert estimate_layout(ray, layout, 0).store >= found.fixed


def test_predictions_are_passed_on_from_the_host_of_the_first_replica() -> None:
    asked = job()
    found = footprints(make_layout(asked, 2, counts=(4, 1)).stages, "ab")
    prediction = asked.config.training.batch_size * asked.network.takes.classes * 4
    assert found["a"].each - found["b"].each == 3 * prediction


def test_a_store_that_is_too_small_for_replicas_of_one_stage() -> None:
    layout = make_layout(job(), 1, counts=(4,))
    with pytest.raises(UserError, match=r"give --execution\.replicas 1, or more"):
        fitting(layout.stages, StoreCapacity("a", {"a": 1000}, lambda need: "more"))


def test_a_slow_block_with_four_replicas_is_forecast_nearly_four_times_as_fast() -> None:
    conditions = Conditions(lambda stage, copies: Costs((0.2, 0.2, 0.2, 0.2), 0.0), link_costs(), 0, 64, computes=False)
    asked = job(**{"execution.replicas": 4, "training.negatives": "random"})
    one = job(**{"training.negatives": "random"})
    rates = [1 / forecast(each, 1, conditions).steady_seconds for each in (one, asked)]
    assert 3.6 < rates[1] / rates[0] < 4.0


def test_messages_hold_more_where_replicas_make_a_minibatch_faster() -> None:
    asked = job()
    measured = Measured([Costs((0.1,) * 4, 0.0)], 0.007)
    chunks = [make_layout(asked, 1, measured, counts=(count,)).plan.chunk for count in (1, 2, 4)]
    # A message may take 2 % of the 400, 200 and 100 ms for a minibatch.
    assert chunks == [1, 2, 4]


HOSTS = [Host("a", {"CPU": 4.0}), Host("b", {"CPU": 2.0})]


def test_places_are_of_replicas() -> None:
    execution = Execution(stages=2, replicas=(4, 1))
    assert len(places_of(execution, 2, HOSTS)) == 5
    assert shortage(places_of(execution, 2, HOSTS), HOSTS, "pack", (4, 1)) is None
    asks = replace(execution, cpus=2.0)
    why = shortage(places_of(asks, 2, HOSTS), HOSTS, "pack", (4, 1))
    assert why is not None
    assert why.startswith("2 stage(s) with 5 replicas need 10 CPU, the cluster has 6: ask for fewer replicas")
    gpus = replace(execution, device=("cpu", "cuda"))
    assert "replicas need 1 GPU, the cluster has 0" in str(shortage(places_of(gpus, 2, HOSTS), HOSTS, "pack", (4, 1)))


@pytest.mark.parametrize(
    ("fields", "counts", "says"),
    [
        ({}, (4, 1), None),
        ({}, (4, 4), None),  # more processes than CPUs, which stages share
        ({}, (1,) * 8, None),
        ({}, (1, 8), "stage 1 has 8 replicas (9 processes in all), the cluster has 6 CPU: ask for fewer"),
        ({}, (64,), "stage 0 has 64 replicas (64 processes in all), the cluster has 6 CPU: ask for fewer"),
        ({"cpus": 0.05}, (64,), None),
        ({"cpus": (1.0, 0.0)}, (2, 8), "stage 1 has 8 replicas"),
        ({"device": "cuda"}, (8,), None),
        ({"device": ("cuda", "cpu")}, (8, 8), "stage 1 has 8 replicas"),
    ],
)
def test_replicas_of_a_stage_share_no_cpu_unasked(
    fields: dict[str, Any], counts: tuple[int, ...], says: str | None
) -> None:
    found = crowding(Execution(**fields), counts, HOSTS)
    assert found is None if says is None else says in (found or "")


def test_a_stage_without_replicas_may_have_a_part_of_a_cpu() -> None:
    assert crowding(Execution(), (1, 1), [Host("a", {"CPU": 0.5})]) is None


@pytest.mark.parametrize(("replicas", "places"), [(1, 6), (2, 6), (4, 4)])
def test_as_many_stages_as_there_is_room_for_with_all_their_replicas(replicas: int, places: int) -> None:
    assert len(most_places(Execution(replicas=replicas), 10, HOSTS)) == places


def test_after_a_loss_there_are_ever_fewer_by_one_stage_at_a_time() -> None:
    assert list(smaller_and_smaller((4, 2))) == [(4, 2), (2, 2), (1, 2), (1, 1), (1,)]
    assert list(smaller_and_smaller((1, 4, 1))) == [(1, 4, 1), (1, 2, 1), (1, 1, 1), (1, 1), (1,)]

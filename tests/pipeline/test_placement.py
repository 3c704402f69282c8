"""Stages that can never be placed are refused before anything waits; others are placed as was meant."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe import UserError, override, recipe
from ffpipe.config.schema import Execution
from ffpipe.engines.ray.placement import (
    Bundle,
    Host,
    fewer,
    matches,
    most_places,
    neighbours_together,
    places_of,
    share_of_cpus,
    shortage,
)

SMALL = Host("10.0.0.1", {"CPU": 2.0, "node:10.0.0.1": 1.0})
GPUS = Host("10.0.0.2", {"CPU": 8.0, "GPU": 2.0, "memory": 64 * 2.0**30}, {"zone": "a"})
CPU = Bundle("cpu", {"CPU": 1.0}, {})


def test_one_value_is_that_of_all_stages_and_a_list_has_one_for_each() -> None:
    execution = Execution(
        device=("cuda", "cuda", "cpu"),
        cpus=(1.0, 1.0, 4.0),
        gpus=(0.5, 0.0, 0.0),
        memory="4GiB",
        resources={"fast": 1.0, "disk": (0.0, 0.0, 2.0)},
        labels={"zone": ("a", "a", "")},
    )
    assert places_of(execution, 3, [GPUS]) == (
        Bundle("cuda", {"CPU": 1.0, "GPU": 0.5, "memory": 4 * 2.0**30, "fast": 1.0}, {"zone": "a"}),
        Bundle("cuda", {"CPU": 1.0, "GPU": 1.0, "memory": 4 * 2.0**30, "fast": 1.0}, {"zone": "a"}),
        Bundle("cpu", {"CPU": 4.0, "memory": 4 * 2.0**30, "fast": 1.0, "disk": 2.0}, {}),
    )


@pytest.mark.parametrize(
    ("stages", "cpus", "share"),
    [(2, [2], 1.0), (3, [2], 0.6666), (4, [1, 1, 1], 0.5), (4, [1, 3], 1.0), (5, [1, 3], 0.75), (1, [0.5], 0.5)],
)
def test_the_share_of_a_cpu_that_every_stage_finds(stages: int, cpus: list[float], share: float) -> None:
    assert share_of_cpus(stages, cpus) == share


@given(st.integers(1, 12), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_shares_find_room_and_none_that_is_larger_would(stages: int, cpus: list[int]) -> None:
    share = share_of_cpus(stages, cpus)
    assert sum(int(each / share + 1e-6) for each in cpus) >= stages
    assert share == 1.0 or all(
        sum(int(each / (each_of / n) + 1e-9) for each in cpus) < stages
        for each_of, n in itertools.product(cpus, range(1, stages + 1))
        if share + 1e-3 < each_of / n <= 1.0
    )


@pytest.mark.parametrize(
    ("places", "hosts", "strategy", "says"),
    [
        ([CPU] * 3, [SMALL], "pack", "3 stage(s) need 3 CPU, the cluster has 2"),
        ([Bundle("cuda", {"GPU": 1.0}, {})], [SMALL], "pack", "(--execution.gpus)"),
        ([Bundle("cpu", {"memory": 2.0**30}, {})], [SMALL], "pack", "1 stage(s) need 1.00 GiB memory"),
        ([Bundle("cpu", {"CPU": 9.0}, {})], [SMALL, GPUS], "pack", "stage 0 asks for 9 CPU, but no host has that"),
        ([CPU, Bundle("cpu", {"CPU": 1.0}, {"zone": "b"})], [SMALL, GPUS], "pack", "stage 1 asks for 1 CPU on a host"),
        ([Bundle("cpu", {"CPU": 1.0}, {"zone": "!a"})], [GPUS], "pack", "10.0.0.2 (8 CPU, 2 GPU, 64.00 GiB memory, z"),
        ([CPU] * 3, [SMALL, GPUS], "one-host-each", "needs 3 hosts that fit"),
        ([CPU, Bundle("cuda", {"GPU": 1.0}, {})] * 2, [SMALL, GPUS] * 2, "one-host-each", None),
        ([Bundle("cuda", {"GPU": 1.0}, {})] * 2, [SMALL, GPUS], "one-host-each", "needs 2 hosts that fit"),
        ([CPU] * 10, [SMALL, GPUS], "pack", None),
    ],
)
def test_what_can_never_be_placed(places: list[Bundle], hosts: list[Host], strategy: str, says: str | None) -> None:
    found = shortage(places, hosts, strategy)
    assert found is None if says is None else says in (found or "")


@pytest.mark.parametrize(
    ("selector", "value", "fits"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", None, True),
        ("in(a,b)", "b", True),
        ("in(a, b)", "c", False),
        ("!in(a,b)", "c", True),
    ],
)
def test_labels(selector: str, value: str | None, fits: bool) -> None:
    assert matches(selector, value) == fits


def test_with_fewer_stages_the_places_go_first_that_no_host_fits_any_more() -> None:
    gpu = Bundle("cuda", {"GPU": 1.0}, {})
    assert fewer([gpu, CPU, CPU], 2, [SMALL]) == (CPU, CPU)
    assert fewer([gpu, CPU, CPU], 2, [SMALL, GPUS]) == (gpu, CPU)
    assert fewer([gpu, CPU, CPU], 3, [SMALL]) == (gpu, CPU, CPU)


def test_neighbours_come_together_where_all_ask_for_the_same() -> None:
    assert neighbours_together([CPU] * 5, ["b", "a", "b", "c", "a"]) == [0, 2, 1, 4, 3]
    mixed = [CPU, Bundle("cpu", {"CPU": 2.0}, {}), CPU]
    assert neighbours_together(mixed, ["a", "b", "a"]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"execution.device": ["cuda", "cpu"], "execution.stages": 3}, "has values for 2 stage(s), but there are 3"),
        ({"execution.device": ["cpu"] * 4}, "there are 3 layers"),
        ({"execution.cpus": ["1", "2"], "execution.memory": ["1GiB"] * 3}, "execution.cpus has values for 2 stage(s)"),
        ({"execution.device": ["cpu", "cpu"], "execution.engine": "local"}, "engine 'local' is one process"),
        ({"execution.device": ["cuda", "cpu"], "execution.gpus": ["0.5", "0.5"]}, "with execution.device 'cpu'"),
        ({"execution.memory": ["1GiB", "lots"]}, "execution.memory is 'lots'"),
        ({"execution.labels": {"zone": "a b"}}, "give a label's value"),
        ({"execution.labels": {"zone": "!a\u00e9b"}}, "give a label's value"),
        ({"execution.labels": {"my zone": "!a"}}, "not a name of a label"),
        ({"execution.device": "cuda", "execution.gpus": "1.5"}, "a share of one GPU, or a whole number"),
        ({"execution.memory": "9" * 400 + "B"}, "not a size such as"),
        ({"execution.resources": {"GPU": ["1", "1"]}}, "not a custom resource"),
        ({"execution.placement": "strict"}, "'one-host-each'"),
        ({"execution.device": ["cuda", "tpu"]}, "'cuda'"),
    ],
)
def test_what_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        override(recipe("mnist"), {"execution.stages": 0, **fields})
    assert says in str(error.value)


def test_lists_say_how_many_stages_there_are() -> None:
    config = override(recipe("mnist"), {"execution.cpus": ["1", "2", "1"]})
    assert config.execution.listed == 3
    assert override(recipe("mnist"), {"execution.cpus": "2"}).execution.listed == 0


def test_a_share_is_of_hosts_on_which_a_stage_can_be() -> None:
    head = Host("10.0.0.1", {"CPU": 8.0})
    gpus = Host("10.0.0.2", {"CPU": 2.0, "GPU": 4.0})
    places = places_of(Execution(device="cuda"), 4, [head, gpus])
    assert [place.asks for place in places] == [{"CPU": 0.5, "GPU": 1.0}] * 4


@pytest.mark.parametrize(
    ("execution", "stages"),
    [
        (Execution(), 6),
        (Execution(device="cuda"), 2),
        (Execution(placement="one-host-each"), 2),
        (Execution(cpus=4.0), 2),
        (Execution(cpus=99.0), 1),
    ],
)
def test_as_many_stages_as_there_is_room_for(execution: Execution, stages: int) -> None:
    assert len(most_places(execution, 6, [SMALL, GPUS])) == stages

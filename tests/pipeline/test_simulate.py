"""Simulated time, where it can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.pipeline.schedule import Item, Train
from ffpipe.planning.simulate import HostLayout, LinkCosts, Simulation, StageLoad, Timing

FREE = LinkCosts(item=0.0, call=0.0, copy=math.inf, link=math.inf, latency=0.0)


def chain(seconds: Sequence[float], rows: int = 0, features: int = 0) -> list[StageLoad]:
    """Make stages that take so long for a minibatch, and send so many bytes for it."""
    last = len(seconds) - 1

    def load(index: int, each: float) -> StageLoad:
        sources = {index - 1} if index else set()
        sources |= set(range(last)) if index == last and features else set()

        def count(item: Item) -> int:
            assert isinstance(item, Train)
            return item.count

        def parts(item: Item) -> dict[int, int]:
            following = {index + 1: rows * count(item)} if index < last else {}
            past_others = {last: features * count(item)} if features and index < last - 1 else {}
            return following | past_others

        return StageLoad(lambda item: each * count(item), parts, tuple(sorted(sources)))

    return [load(index, each) for index, each in enumerate(seconds)]


def run(
    seconds: Sequence[float],
    items: int = 10,
    *,
    chunk: int = 1,
    window: int = 100,
    links: LinkCosts = FREE,
    host_layout: HostLayout | None = None,
    rows: int = 0,
    features: int = 0,
) -> Timing:
    work = [Train(first * chunk, chunk) for first in range(items)]
    place = host_layout or HostLayout((0,) * len(seconds), 64.0, False)
    return Simulation(work, lambda item: chunk, window, chain(seconds, rows, features), links, place).run()


def test_a_stage_alone_takes_what_its_work_takes() -> None:
    timing = run([2.0])
    assert timing.seconds == 20.0


@pytest.mark.parametrize(("seconds", "whole"), [([1, 1, 1], 12), ([3, 1, 1], 32), ([1, 3, 1], 32), ([1, 1, 3], 32)])
def test_the_slowest_stage_sets_the_pace_and_the_others_fill_and_drain(seconds: list[float], whole: float) -> None:
    timing = run(seconds)
    assert timing.seconds == whole
    assert timing.steady_seconds() == max(seconds)


def test_a_window_of_one_message_is_lock_step() -> None:
    assert run([1.0, 2.0, 3.0], window=1).seconds == 10 * 6.0


def test_a_window_smaller_than_the_pipeline_bounds_its_rate() -> None:
    assert run([1.0] * 6, 100, window=3).steady_seconds() == pytest.approx(6 / 3)


def test_layers_that_share_a_processor_take_turns() -> None:
    shared = run([1.0, 1.0], 100, host_layout=HostLayout((0, 0), 1.0, True))
    assert shared.steady_seconds() == pytest.approx(2.0, rel=0.02)
    assert shared.seconds == pytest.approx(200.0)
    apart = run([1.0, 1.0], 100, host_layout=HostLayout((0, 1), 1.0, True))
    assert apart.seconds == pytest.approx(101.0)


def test_a_link_bounds_the_rate_and_latency_only_delays() -> None:
    slow = LinkCosts(item=0.0, call=0.0, copy=math.inf, link=100.0, latency=5.0)
    host_layout = HostLayout((0, 1), 4.0, False)
    timing = run([1.0, 1.0], 100, links=slow, host_layout=host_layout, rows=300)
    assert timing.steady_seconds() == pytest.approx(3.0)
    assert timing.linked == {0: 30_000, 1: 0}
    same_host = run([1.0, 1.0], 100, links=slow, rows=300)
    assert same_host.seconds == 101.0
    once = run([1.0, 1.0], 1, links=slow, host_layout=host_layout, rows=300)
    assert once.seconds == 1.0 + 3.0 + 5.0 + 1.0


def test_copies_and_calls_take_processors_but_not_the_stage() -> None:
    dear = LinkCosts(item=0.0, call=0.25, copy=100.0, link=math.inf, latency=0.0)
    timing = run([1.0, 1.0], 100, links=dear, rows=25, host_layout=HostLayout((0, 0), 64.0, False, reads=False))
    assert timing.steady_seconds() == pytest.approx(1.0)
    assert timing.seconds == pytest.approx(100 + 0.25 + 0.25 + 0.25 + 1.0)
    dearer = LinkCosts(item=0.0, call=2.0, copy=math.inf, link=math.inf, latency=0.0)
    assert run([1.0, 1.0], 100, links=dearer).steady_seconds() == pytest.approx(2.0)  # the publisher is the slowest


def test_a_stage_that_reads_what_it_gets_takes_the_time_of_a_copy() -> None:
    dear = LinkCosts(item=0.0, call=0.25, copy=100.0, link=math.inf, latency=0.0)
    timing = run([1.0, 1.0], 100, links=dear, rows=25)
    assert timing.steady_seconds() == pytest.approx(1.25)
    assert timing.seconds == pytest.approx(1.0 + 0.25 + 0.25 + 0.25 + 100 * (0.25 + 1.0))


def test_what_a_message_costs_a_stage_is_paid_once_a_chunk() -> None:
    dear = LinkCosts(item=0.5, call=0.0, copy=math.inf, link=math.inf, latency=0.0)
    assert run([1.0, 1.0], 100, links=dear).steady_seconds() == pytest.approx(1.5)
    assert run([1.0, 1.0], 100, links=dear, chunk=5, window=500).steady_seconds() == pytest.approx(1.1)


def test_the_last_stage_waits_for_features_that_go_past_the_others() -> None:
    slow = LinkCosts(item=0.0, call=0.0, copy=math.inf, link=10.0, latency=0.0)
    host_layout = HostLayout((0, 1, 2), 4.0, False)
    timing = run([1.0] * 3, 50, links=slow, host_layout=host_layout, rows=10, features=30)
    # Out of the first host go rows and features, into the last one those of two hosts.
    assert timing.steady_seconds() == pytest.approx(4.0, rel=0.05)
    assert timing.linked[0] == 50 * 40


@given(
    st.lists(st.floats(0.1, 5.0), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(1, 30),
    st.booleans(),
)
def test_bounds(seconds: list[float], chunk: int, window: int, items: int, computes: bool) -> None:
    """No faster than the slowest stage or the processors, no slower than one message after the other; in order."""
    host_layout = HostLayout(tuple(index % 2 for index in range(len(seconds))), 1.0, computes)
    timing = run(seconds, items, chunk=chunk, window=max(window, chunk), host_layout=host_layout)
    steps = items * chunk
    assert timing.seconds >= steps * max(seconds) * (1 - 1e-9)
    assert timing.seconds <= steps * sum(seconds) * (1 + 1e-9)
    if computes:
        assert timing.seconds >= steps * sum(seconds[0::2]) * (1 - 1e-9)
    assert all(a.end == b.first for a, b in pairwise(item for item, _ in timing.done if isinstance(item, Train)))
    assert [at for _, at in timing.done] == sorted(at for _, at in timing.done)

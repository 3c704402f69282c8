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


def chain(
    seconds: Sequence[float], rows: int = 0, features: int = 0, after: float = 0.0, replicas: Sequence[int] = ()
) -> list[StageLoad]:
    """Make stages that take so long for a minibatch, and send so many bytes for it, and all of an item so many seconds
    before they are through with it. replicas: of each; none given: one each."""
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

        left = 0.0 if index == last else after
        count_of = replicas[index] if replicas else 1
        senders = tuple(sorted(sources))
        return StageLoad(lambda item: each * count(item), parts, senders, after=lambda _: left, replicas=count_of)

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
    after: float = 0.0,
    replicas: Sequence[int] = (),
) -> Timing:
    work = [Train(first * chunk, chunk) for first in range(items)]
    place = host_layout or HostLayout((0,) * len(seconds), 64.0, False)
    loads = chain(seconds, rows, features, after, replicas)
    return Simulation(work, lambda item: chunk, window, loads, links, place).run()


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
    # They come out at 6, 7, 8; 12, 13, 14; 18, 19, 20: two windows from the third to the last.
    assert run([1.0] * 6, 9, window=3).steady_seconds() == pytest.approx(6 / 3)
    assert run([1.0] * 6, 2, window=3).steady_seconds() == 1.0
    assert run([1.0] * 6, 1, window=3).steady_seconds() == 6.0


@pytest.mark.parametrize(
    ("items", "chunk", "after", "begun", "whole"),
    [
        # Three stages of 3 s: the first two pass an item on after 3, 1 and 0.5 of them.
        (1, 1, 0.0, 6.0, 9.0),
        (1, 1, 2.0, 2.0, 5.0),
        (10, 1, 2.0, 2.0, 32.0),
        (10, 1, 2.5, 1.0, 31.0),
        # The last alone of two minibatches in an item leaves early: after 3 + 1 s.
        (1, 2, 2.0, 8.0, 14.0),
        (5, 2, 2.0, 8.0, 38.0),
    ],
)
def test_results_leave_before_their_stage_is_through(
    items: int, chunk: int, after: float, begun: float, whole: float
) -> None:
    timing = run([3.0] * 3, items, chunk=chunk, after=after)
    assert (timing.begun, timing.seconds) == (begun, whole)
    assert timing.last_seconds() == pytest.approx((whole - begun) / (items * chunk))


def test_what_leaves_early_comes_back_early() -> None:
    # Half a second in each of five stages and one in the last, for three at a time.
    timing = run([1.0] * 6, 100, window=3, after=0.5)
    assert timing.steady_seconds() == pytest.approx(3.5 / 3)
    # The stages are the bound where more are in flight.
    assert run([1.0] * 6, 100, window=4, after=0.5).steady_seconds() == pytest.approx(1.0)


def test_a_stage_waits_for_its_publisher_before_it_goes_on() -> None:
    # Items are published until 2.5, 4.5 and 6.5, and taken in for 2 s more.
    slow = LinkCosts(item=0.0, call=2.0, copy=math.inf, link=math.inf, latency=0.0)
    assert run([1.0, 1.0], 100, links=slow, after=0.5).steady_seconds() == pytest.approx(2.0)
    assert run([1.0, 1.0], 3, links=slow, after=0.5).seconds == 0.5 + 3 * 2.0 + 2.0 + 1.0
    # The fourth, there at 3.5 while the second is published and the third waits, waits until 4.5; its stage is through
    # with it at 5.
    assert run([1.0, 1.0], 5, links=slow, after=0.5).fed == 5.0


def test_what_is_computed_after_a_result_has_left_takes_processors_too() -> None:
    one_core = HostLayout((0, 0), 1.0, True)
    assert run([1.0, 1.0], 100, host_layout=one_core, after=0.5).seconds == pytest.approx(200.0)


@pytest.mark.parametrize(("cores", "seconds"), [(4.0, 1.0), (2.0, 2.0), (1.0, 4.0)])
def test_replicas_share_the_processors_that_there_are(cores: float, seconds: float) -> None:
    """Each of four has 1 s of work for a minibatch."""
    timing = run([1.0], host_layout=HostLayout((0,), cores, True), replicas=[4])
    assert timing.seconds == pytest.approx(10 * seconds)
    assert run([1.0], host_layout=HostLayout((0,), cores, False), replicas=[4]).seconds == 10.0


def test_messages_of_replicas() -> None:
    dear = LinkCosts(item=0.0, call=0.25, copy=math.inf, link=math.inf, latency=0.0)
    # The first replica calls the second, which takes that in; both compute, and call two of the next four each.
    assert run([1.0, 1.0], 1, links=dear, replicas=[2, 4]).seconds == 0.25 + 0.25 + 1.0 + 2 * 0.25 + 0.25 + 1.0
    # From four, who have been called one after the other, each of two takes two packets in.
    assert run([1.0, 1.0], 1, links=dear, replicas=[4, 2]).seconds == 3 * 0.25 + 0.25 + 1.0 + 0.25 + 2 * 0.25 + 1.0
    copies = LinkCosts(item=0.0, call=0.0, copy=100.0, link=math.inf, latency=0.0)
    # 400 bytes, which two write into the store and four read.
    assert run([1.0, 1.0], 1, links=copies, rows=400, replicas=[2, 4]).seconds == 1.0 + 2.0 + 1.0 + 1.0


def test_processes_take_something_of_the_processors_beside_their_work() -> None:
    idle = LinkCosts(item=0.0, call=0.0, copy=math.inf, link=math.inf, latency=0.0, idle=0.5)
    # Two processes want half a processor more each: of 2 processors, 2 / (2 + 1) are left to work.
    busy = run([1.0] * 2, 100, links=idle, host_layout=HostLayout((0, 0), 2.0, True))
    assert busy.steady_seconds() == pytest.approx(1.5)
    assert busy.processors[0] == pytest.approx(200 / (4 / 3))
    assert run([1.0] * 2, 100, links=idle, host_layout=HostLayout((0, 0), 2.0, False)).seconds == 101.0


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

"""The length that a chapter may have, by arithmetic on the disk."""

from __future__ import annotations

import functools

import pytest
from any_plan import PLANS
from hypothesis import given, settings
from hypothesis import strategies as st

from ffpipe import override, recipe
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.schedule import ItemStream, Plan, Snapshot, Stop
from ffpipe.planning.layerwise import (
    SHARE,
    Snapshots,
    chapter_of,
    disk_bytes,
    longest_chapter,
    needed_bytes,
    spooled_bytes,
)
from ffpipe.planning.layout import make_layout
from ffpipe.planning.memory import NetworkSizes

BATCH, PARTS = 50, 3


def test_what_lies_between_rows_is_what_a_stage_reads_and_writes_and_what_the_head_waits_for() -> None:
    job = make_job(override(recipe("digits"), {"training.dims": [64, 30, 50, 40, 20]}))
    specs = make_layout(job, 4).stages
    of = NetworkSizes(job.network, 1)
    # Beside the rows that stage 1 reads and writes, layer 1's neutral rows wait for the last stage; layer 0 is not
    # seen, layer 2 comes as rows.
    assert spooled_bytes(specs, of) == 4 * BATCH * (PARTS * (50 + 40) + 50)
    assert of.whole_state > 4 * 2 * (64 * 30 + 30 * 50 + 50 * 40 + 40 * 20)


@pytest.mark.parametrize("snapshots", [None, Snapshots(2, 0, 0, 10000, 10, timed=False)])
def test_the_longest_chapter_fits_and_one_more_minibatch_does_not(snapshots: Snapshots | None) -> None:
    job = make_job(override(recipe("digits"), {"training.dims": [64, 30, 50, 40, 20]}))
    specs = make_layout(job, 4).stages
    of = NetworkSizes(job.network, 1)
    needed = functools.partial(needed_bytes, specs, of, snapshots=snapshots)
    for free in (2 * 10**6, 10**7, 10**9):
        chapter = longest_chapter(needed, free, 10**6)
        assert chapter > 0
        assert disk_bytes(specs, of, chapter) <= free * SHARE
        assert needed(chapter) <= free < needed(chapter + 1)
        assert longest_chapter(needed, free, chapter - 1) == chapter - 1
    assert longest_chapter(needed, 1000, 10**6) == 0


def snapshots(there: int = 0, first: int = 0, every: int = 0, kept: int = 2, *, timed: bool = False) -> Snapshots:
    return Snapshots(kept, there, first, 1000, every, timed)


@pytest.mark.parametrize(
    ("snapshots", "chapter", "to_come"),
    [
        (snapshots(), 100, 1),  # the one at the end
        (snapshots(there=2, first=990), 100, 1),
        (snapshots(there=2, first=1000), 100, 0),  # all is done
        (snapshots(every=250), 100, 3),  # two whole, one in the making
        (snapshots(every=250, there=1), 100, 2),
        (snapshots(every=250, there=2), 100, 1),
        (snapshots(every=250, there=5), 100, 1),
        (snapshots(every=250, first=500, there=1), 1, 2),
        (snapshots(every=250, first=750, there=1), 1, 1),
        (snapshots(every=300, there=2), 100, 2),  # that at the end is out of turn: it may follow at once
        (snapshots(every=10, there=2), 22, 2),
        (snapshots(every=10, there=2), 23, 3),
        (snapshots(kept=3, timed=True), 100, 5),
        (snapshots(kept=3, timed=True, first=1000), 100, 0),
    ],
)
def test_snapshots_that_are_there_at_once(snapshots: Snapshots, chapter: int, to_come: int) -> None:
    assert snapshots.to_come(chapter) == to_come


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 10), st.integers(50, 300))
def test_no_chapter_has_more_snapshots_than_are_counted(every: int, chapter: int, chunk: int, steps: int) -> None:
    plan = Plan(steps, min(chunk, chapter), False, {}, {}, 1, every)
    stream, counted = (
        ItemStream(plan, 0, 0.0, lambda: 0.0),
        Snapshots(0, 0, 0, steps, every, timed=False).to_come(chapter),
    )
    stopped = False
    while not stopped:
        of_chapter = list(chapter_of(stream, plan, chapter))
        assert sum(isinstance(item, Snapshot) for item in of_chapter) <= counted
        stopped = isinstance(of_chapter[-1], Stop)


@settings(max_examples=300, deadline=None)
@given(PLANS)
def test_the_longest_window_has_the_whole_run(plan: Plan) -> None:
    items = list(plan.items())
    assert list(chapter_of(plan.items(), plan, plan.longest_window)) == items
    # In lock step it is not known how many minibatches have their neutral rows alone.
    assert plan.longest_window <= sum(map(plan.weight, items)) + plan.chunk + plan.lockstep * plan.steps


def test_a_single_stage_leaves_nothing_between_rows() -> None:
    job = make_job(recipe("digits"))
    layout = make_layout(job, 1)
    of = NetworkSizes(job.network, 1)
    assert spooled_bytes(layout.stages, of) == 0
    assert disk_bytes(layout.stages, of, 1000) == of.whole_state

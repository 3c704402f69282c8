"""Needs of a run are held against what the host has; no Ray runs here."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import ray

from ffpipe import override, recipe
from ffpipe.engines.ray import engine
from ffpipe.engines.ray.actor_group import failure
from ffpipe.pipeline.job import Job, make_job
from ffpipe.planning import headroom
from ffpipe.system.errors import OutOfMemory, RunFailed, StageLost, UserError
from ffpipe.system.memory import anonymous_bytes

GROUP = "this control group has"


@pytest.fixture
def job() -> Job:
    return make_job(override(recipe("digits"), {"execution.stages": 2}), None)


def test_what_is_needed_grows_with_the_stages_by_a_process(job: Job) -> None:
    one = make_job(override(recipe("digits"), {"execution.stages": 1}), None)
    assert headroom.needed(job) - headroom.needed(one) > 0.9 * anonymous_bytes()


@pytest.mark.parametrize(
    ("share", "sure", "warned"), [(1.2, True, False), (0.95, True, True), (0.8, False, True)], ids=str
)
def test_warned_or_refused(share: float, sure: bool, warned: bool, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    size = int(share * headroom.needed(job))
    monkeypatch.setattr(headroom, "room", lambda: (size, GROUP))
    monkeypatch.setattr(headroom, "hard_limit", lambda: size if sure else math.inf)
    said = headroom.warnings(job)
    assert len(said) == warned
    assert all("2 stage(s), this program and Ray take about" in line for line in said)


def test_refused_where_it_would_be_killed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headroom, "room", lambda: (300 << 20, GROUP))
    monkeypatch.setattr(headroom, "hard_limit", lambda: 300 << 20)
    with pytest.raises(
        UserError, match="this control group has 300 MiB: give --memory-budget, --stages 1 or --engine l"
    ):
        headroom.warnings(job)


@pytest.mark.parametrize(
    ("error", "kills", "comes", "says"),
    [
        (StageLost("stage 1 failed"), 1, OutOfMemory, "stage 1 failed; it was killed, probably for want of memory: 2"),
        (StageLost("stage 1 failed"), 0, StageLost, "stage 1 failed$"),
        (OutOfMemory("stage 1 failed"), 0, OutOfMemory, "want of memory: 2 stage"),  # as Ray's own watch says it
        (RunFailed("an error of its own"), 1, RunFailed, "of its own$"),
    ],
)
def test_a_stage_that_was_killed_for_want_of_memory(
    error: RunFailed, kills: int, comes: type[RunFailed], says: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Cluster", lambda _: SimpleNamespace(own=True))
    monkeypatch.setattr(engine, "oom_kills", lambda: 7)
    driver = engine.RayEngine()
    monkeypatch.setattr(engine, "oom_kills", lambda: 7 + kills)
    with pytest.raises(comes, match=says) as caught, driver._naming_memory(job):
        raise error
    assert type(caught.value) is comes


def test_a_kill_by_rays_own_watch_on_memory_is_known() -> None:
    assert type(failure("stage 1 failed", ray.exceptions.OutOfMemoryError("low on memory"))) is OutOfMemory

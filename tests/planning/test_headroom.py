"""Needs of a run are held against what the host has; no Ray runs here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import ray

from ffpipe import override, recipe
from ffpipe.engines.ray.actor_group import failure
from ffpipe.pipeline.job import Job, make_job
from ffpipe.planning import headroom
from ffpipe.planning.estimate import COMPILER_BYTES
from ffpipe.system import memory
from ffpipe.system.errors import OutOfMemory, RunFailed, StageLost, UserError
from ffpipe.system.memory import anonymous_bytes


def system(root: Path, limit: int, *, swap: bool = False, kills: int = 0) -> Path:
    """Write the files of a system with so much memory in the control group of this process; returns their root."""
    for name, text in {
        memory.GROUPS: "0::/mine",
        f"{memory.ROOT_OF_GROUPS}/mine/memory.max": str(limit),
        memory.MEMORY_OF_HOST: f"MemAvailable: {1 << 40} kB\nSwapTotal: {4 * swap} kB",
        memory.COUNTS_OF_HOST: f"oom_kill {kills}",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def job() -> Job:
    return make_job(override(recipe("digits"), {"execution.stages": 2}), None)


def test_what_is_needed_grows_with_the_stages_by_a_process(job: Job) -> None:
    one = make_job(override(recipe("digits"), {"execution.stages": 1}), None)
    assert headroom.needed(job) - headroom.needed(one) > 0.9 * (anonymous_bytes() - COMPILER_BYTES)


@pytest.mark.parametrize(
    ("share", "sure", "warned"), [(1.2, True, False), (0.95, True, True), (0.8, False, True)], ids=str
)
def test_warned_or_refused(share: float, sure: bool, warned: bool, job: Job, tmp_path: Path) -> None:
    said = headroom.warnings(job, system(tmp_path, int(share * headroom.needed(job)), swap=not sure))
    assert len(said) == warned
    assert all("2 stage(s), this program and Ray take about" in line for line in said)


def test_refused_where_it_would_be_killed(job: Job, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="this control group has 300 MiB: give --memory-budget, --stages 1 or --engine l"
    ):
        headroom.warnings(job, system(tmp_path, 300 << 20))


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
    error: RunFailed, kills: int, comes: type[RunFailed], says: str, job: Job, tmp_path: Path
) -> None:
    watched = headroom.Kills(system(tmp_path, 1 << 30, kills=7))
    system(tmp_path, 1 << 30, kills=7 + kills)
    with pytest.raises(comes, match=says) as caught, watched.naming(partial(headroom.balance, job)):
        raise error
    assert type(caught.value) is comes


def test_a_kill_by_rays_own_watch_on_memory_is_known() -> None:
    assert type(failure("stage 1 failed", ray.exceptions.OutOfMemoryError("low on memory"))) is OutOfMemory

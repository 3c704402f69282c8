"""A place for snapshots that refuses for a moment is tried again, by the driver, by other hosts and by stages."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest
from disturbed import QUICK, GivenStore, config

from ffpipe import Interrupt, UserError, train
from ffpipe.engines.local import LocalEngine
from ffpipe.engines.ray.reach import check_reach, problem_here
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.runs.controller import carry_out
from ffpipe.runs.resumed import resumed
from ffpipe.runs.view import View
from ffpipe.storage.store import Pieces, Store
from ffpipe.system.errors import Unreachable


class Refusing(Store):
    """A place that refuses each thing so many times before it does it."""

    def __init__(self, root: str, times: int = 1) -> None:
        super().__init__(root, pauses=(0.0, 0.0))
        self.times, self.refused = times, list[str]()

    def _refuse(self, what: str, error: Exception) -> None:
        if self.refused.count(what) < self.times:
            self.refused.append(what)
            raise error

    def write(self, name: str, pieces: Pieces) -> None:
        self._refuse("write", OSError(errno.EIO, "torn"))
        super().write(name, pieces)

    def exists(self, name: str) -> bool:
        self._refuse("exists", OSError(errno.EIO, "torn"))
        return super().exists(name)

    def read(self, name: str, most: int) -> bytes:
        self._refuse(f"read {name}", Unreachable("torn"))
        return super().read(name, most)


def test_a_moment_is_forgiven_on_both_sides(tmp_path: Path) -> None:
    here, there = (Refusing(str(tmp_path / "place")) for _ in range(2))
    check_reach(here, [("b", partial(problem_here, there))])
    assert list(tmp_path.iterdir()) == []


def test_what_lasts_is_named(tmp_path: Path) -> None:
    good, bad = Store(str(tmp_path)), Refusing(str(tmp_path), times=9)
    with pytest.raises(UserError, match=r"snapshots cannot be written to .*: torn"):
        check_reach(bad, [])
    with pytest.raises(UserError, match=r"which host b cannot write to \(torn\): give --execution.checkpoints"):
        check_reach(good, [("a", partial(problem_here, good)), ("b", partial(problem_here, bad))])
    with pytest.raises(UserError, match="which host b does not see: give"):
        check_reach(good, [("b", partial(problem_here, Store(str(tmp_path / "elsewhere"))))])


def test_a_mark_that_cannot_be_removed_ends_no_run(tmp_path: Path) -> None:
    class Keeps(Store):
        def remove(self, name: str) -> None:
            raise OSError(errno.EACCES, "kept")

    check_reach(Keeps(str(tmp_path)), [])


class Begins(LocalEngine):
    """An engine to whose stages the place refuses every file once."""

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        assert isinstance(store, Refusing)
        store.times = 1
        super().run(job, layout, store, start, scratch, on_report)


def test_a_stage_reads_its_snapshot_again(tmp_path: Path) -> None:
    run = train(config(tmp_path / "run", **QUICK)).run_dir
    store, changes = Refusing(str(run / "checkpoints"), times=0), {"training.epochs": 3}
    found = resumed(run, changes)
    result = carry_out(
        found.config, found.model, GivenStore(run, lambda _: store), True, View(), Interrupt(), lambda _: Begins()
    )
    assert {"read step-00000056/head.safetensors", "read step-00000056/manifest.json"} < set(store.refused)
    assert result.summary["recoveries"] == 0

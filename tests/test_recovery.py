"""Real processes are broken; the weights come out as if nothing had happened. test_drill.py has more of it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from covering import only
from disturbed import LONG, Disturb, same, wait_until
from disturbed import config as shorter
from processes import stage_processes

from ffpipe import Config, Interrupt, Interrupted, Result, RunFailed, resume, train
from ffpipe.data.splits import Splits
from ffpipe.engines.local import LocalEngine
from ffpipe.engines.ray.actor import RayLinks
from ffpipe.engines.ray.engine import RayEngine
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.pipeline.packet import Packet
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.worker_setup import AnyFeed, Parts, WorkerSetup, make_feed, make_stage
from ffpipe.planning.layout import Measured
from ffpipe.storage.store import Store
from ffpipe.system.errors import StageLost
from ffpipe.telemetry.report import StageReport


@pytest.fixture(scope="module")
def undisturbed(_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run to which nothing happens."""
    return train(config(tmp_path_factory.mktemp("undisturbed") / "run", **{"execution.engine": "local"}))


def config(run_dir: Path, **fields: Any) -> Config:
    """Return what disturbed.py does, of 560 steps."""
    return shorter(run_dir, **LONG | fields)


def signal_stage(index: int, number: int) -> Callable[[], None]:
    return lambda: os.kill(stage_processes()[index], number)


@pytest.mark.parametrize(("stages", "step"), [pytest.param([1], 250, marks=pytest.mark.long), ([0, 2], 1)], ids=str)
@pytest.mark.usefixtures("cluster")
def test_stages_that_are_killed(stages: list[int], step: int, undisturbed: Result, tmp_path: Path) -> None:
    def kill() -> None:
        processes = stage_processes()
        for stage in stages:
            os.kill(processes[stage], signal.SIGKILL)

    view = Disturb(step, kill)
    result = train(config(tmp_path / "run"), view)
    assert view.done
    same(result, undisturbed)
    assert result.summary["recoveries"] >= 1
    assert any("going on after step" in note for note in view.notes)
    wait_until(lambda: stage_processes() == [])


@pytest.mark.usefixtures("cluster")
def test_a_stage_that_stops_answering(undisturbed: Result, tmp_path: Path) -> None:
    view = Disturb(1, signal_stage(1, signal.SIGSTOP))
    result = train(config(tmp_path / "run", **{"execution.stage_timeout": 3}), view)
    same(result, undisturbed)
    assert result.summary["recoveries"] == 1
    assert "did not answer for 3 s" in result.summary["recovery_notes"][0]["reason"]
    wait_until(lambda: stage_processes() == [])


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_a_message_that_nobody_gets(undisturbed: Result, tmp_path: Path) -> None:
    lost = tmp_path / "lost"

    def make_lossy(setup: WorkerSetup, saver: Saver) -> Stage:
        """Make a stage, by a function within a test, which travels to the stage's process as it is."""
        send = RayLinks.to

        def to(links: RayLinks, receiver: int, sequence: int, packet: Packet) -> None:
            if sequence == 30 and setup.spec.index == 1 and not lost.exists():
                lost.touch()
            else:
                send(links, receiver, sequence, packet)

        setattr(RayLinks, "to", to)  # noqa: B010  (mypy takes no assignment to a method)
        return make_stage(setup, saver)

    lossy = config(tmp_path / "run", **{"execution.stage_timeout": 3})
    result = train(lossy, engine=lambda execution: RayEngine(Parts(stage=make_lossy)))
    assert lost.exists()
    same(result, undisturbed)
    assert "a message was lost" in result.summary["recovery_notes"][0]["reason"]


@pytest.mark.usefixtures("cluster")
def test_attempts_run_out(tmp_path: Path) -> None:
    view = Disturb(1, signal_stage(0, signal.SIGKILL))
    with pytest.raises(RunFailed, match=r"stage \d .*execution\.attempts is 0"):
        train(config(tmp_path / "run", **{"execution.attempts": 0, "execution.snapshot_steps": 0}), view)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    wait_until(lambda: stage_processes() == [])


class Unlucky(RayEngine):
    """An engine that loses a stage as soon as there is a report, and again while stages are placed anew. losses: how
    often then, in each recovery."""

    def __init__(self, *losses: int) -> None:
        super().__init__()
        self._losses = list(losses)
        self._left = 0

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        def take(report: StageReport) -> None:
            if self._losses:
                self._left = self._losses.pop(0)
                raise StageLost("a stage has gone")
            on_report(report)

        super().run(job, layout, store, start, scratch, take)

    def measure(self, job: Job) -> Measured:
        if self._left:
            self._left -= 1
            os.kill(self.group.processes[-1].id, signal.SIGKILL)
        return super().measure(job)


@pytest.mark.usefixtures("cluster")
def test_stages_that_are_lost_while_they_are_placed(undisturbed: Result, tmp_path: Path) -> None:
    """Once: the same are placed again. Twice: fewer are, but all in the next recovery. Whenever they are placed: the
    recovery has failed, and the next one begins."""
    asked = config(tmp_path / "run", **{"execution.stages": 2, "execution.attempts": 9})
    result = train(asked, engine=lambda execution: Unlucky(1, 2, 4))
    same(result, undisturbed)
    assert [note["stages"] for note in result.summary["recovery_notes"]] == [2, 1, 2]


@pytest.mark.usefixtures("cluster")
def test_losses_of_stages_that_are_placed_are_failures_in_a_row(tmp_path: Path) -> None:
    asked = config(tmp_path / "run", **{"execution.stages": 1, "execution.attempts": 1})
    with pytest.raises(RunFailed, match=r"^a stage could not begin: .*\(1 recoveries in a row after step 0 came to"):
        train(asked, engine=lambda execution: Unlucky(9))


@pytest.mark.parametrize("engine", only(["ray"], ["ray", "local"]))
@pytest.mark.usefixtures("cluster")
def test_an_interrupt_saves_and_another_engine_goes_on(engine: str, undisturbed: Result, tmp_path: Path) -> None:
    interrupt = Interrupt()
    view = Disturb(100, interrupt.request)
    with pytest.raises(Interrupted, match=f"ffpipe resume {tmp_path / 'run'}"):
        train(config(tmp_path / "run", **{"execution.engine": engine}), view, interrupt)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 100 <= summary["steps"] < undisturbed.summary["steps"]
    assert summary["test_error_goodness"] is None
    other = {"ray": "local", "local": "ray"}[engine]
    same(resume(tmp_path / "run", {"execution.engine": other, "execution.stages": 2}), undisturbed)


def test_an_interrupt_while_the_stages_are_made(tmp_path: Path) -> None:
    interrupt = Interrupt()

    def interrupted(setup: WorkerSetup, splits: Splits) -> AnyFeed:
        interrupt.request()
        return make_feed(setup, splits)

    with pytest.raises(Interrupted, match="saved after step 0"):
        train(
            config(tmp_path / "run", **{"execution.engine": "local"}),
            interrupt=interrupt,
            engine=lambda execution: LocalEngine(feed=interrupted),
        )


def test_a_second_interrupt_does_not_wait() -> None:
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt.request()
    told = threading.Event()
    interrupt = Interrupt()
    interrupt.goes_to(told.set)
    interrupt.request()
    assert told.is_set()
    with pytest.raises(KeyboardInterrupt):
        interrupt.request()


def test_a_pause_lasts_until_the_wish() -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            interrupt.request()

    interrupt = Interrupt(sleep)
    interrupt.goes_to(lambda: None)
    interrupt.pause(3600)
    assert len(slept) == 3
    assert sum(slept) < 2
    interrupt.pause(3600)
    assert len(slept) == 3
    whole = Interrupt(slept.append)
    slept.clear()
    whole.pause(1.1)
    assert sum(slept) == pytest.approx(1.1)


def test_an_interrupt_in_a_pause_ends_the_run_before_stages_are_made_anew(tmp_path: Path) -> None:
    class Loses(LocalEngine):
        """An engine that loses a stage when all snapshots are written, for good."""

        def run(self, *given: Any) -> None:
            super().run(*given)
            raise StageLost("a stage failed")

        def layout_again(self, job: Job, store: Store) -> Layout:
            raise AssertionError("stages are made anew")

    interrupt = Interrupt(lambda _: interrupt.request())
    asked = config(tmp_path / "run", **{"execution.engine": "local", "training.epochs": 2})
    with pytest.raises(RunFailed, match=r"a stage failed \(the run was to end\); .* go on with: ffpipe resume"):
        train(asked, interrupt=interrupt, engine=lambda execution: Loses())

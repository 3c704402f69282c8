"""Workers without Ray: three stages in threads, whose messages arrive late and out of order, make the bits of one."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from threaded_workers import ThreadLinks, run_workers

from ffpipe import UserError, override, recipe
from ffpipe.pipeline.job import Job, Start, make_job
from ffpipe.pipeline.packet import Packet, Tensors
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Item, Snapshot, Train
from ffpipe.pipeline.stage import Leave, Stage
from ffpipe.pipeline.worker import Worker
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup, make_own_feed, make_stage
from ffpipe.planning.layout import make_layout
from ffpipe.storage.store import Store

FIELDS = {"training.epochs": 1, "training.dims": [64, 40, 30, 20, 10], "training.negative_lag": 9}


def job(**fields: Any) -> Job:
    return make_job(override(recipe("digits"), {**FIELDS, **fields}))


def weights(workers: list[Worker]) -> dict[str, torch.Tensor]:
    return {
        f"{block.index}.{name}": tensor
        for worker in workers
        for block in worker.stage.blocks  # type: ignore[attr-defined]  # real stages here
        for name, tensor in block.weights().items()
    }


# The third and the fourth block see what the first makes.
SKIPPING = [
    {"kind": "dense", "options": {"width": 20}, "keep": "first" if index == 0 else "", "use": ["first"] * (index > 1)}
    for index in range(4)
]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"training.negative_lag": 0},
        {"execution.evaluate_every": 1},
        pytest.param({"execution.chunk": 2}, marks=pytest.mark.long),
        pytest.param({"training.blocks": SKIPPING, "training.negatives": "none"}, marks=pytest.mark.long),
        pytest.param({"training.blocks": SKIPPING, "training.negative_lag": 0}, marks=pytest.mark.long),
        {"execution.chunk": 1},
        pytest.param({"execution.chunk": 1, "training.hand_on": "after"}, marks=pytest.mark.long),
        pytest.param(
            {"execution.chunk": 1, "training.phases": "apart", "training.local_steps": 2}, marks=pytest.mark.long
        ),
        pytest.param(
            {"execution.chunk": 1, "training.blocks": SKIPPING, "training.negatives": "none"}, marks=pytest.mark.long
        ),
    ],
    ids=[
        *("hard", "lock step", "evaluations", "chunks", "kept outputs", "kept outputs in lock step"),
        *("early", "early after updates", "early in two phases", "early with kept outputs"),
    ],
)
def test_any_order_of_arrival_makes_the_same_weights(fields: dict[str, Any], tmp_path: Path) -> None:
    one = job(**{**fields, "execution.stages": 1})
    expected = weights(run_workers(one, make_layout(one, 1), tmp_path / "one", 0)[0])
    four = job(**{**fields, "execution.stages": 4})
    for seed in range(2):
        found = weights(run_workers(four, make_layout(four, 4), tmp_path / str(seed), seed)[0])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("fields", "early"),
    [
        ({"execution.chunk": 1}, True),
        ({"execution.chunk": 1, "training.blocks": SKIPPING, "training.negatives": "none"}, True),
        ({"execution.chunk": 1, "training.hand_on": "after"}, False),
        ({"execution.chunk": 2}, True),
    ],
    ids=["dense", "autograd", "from after the update", "chunks"],
)
def test_results_leave_before_the_update(fields: dict[str, Any], early: bool, tmp_path: Path) -> None:
    """The first block is yet to learn from the last minibatch of a message when that leaves the first stage."""
    seen: list[bool] = []

    class Watched:
        """The first stage, which looks at its weights when something leaves."""

        def __init__(self, stage: Stage) -> None:
            self._stage, self.device, self.blocks = stage, stage.device, stage.blocks

        def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
            then: dict[str, torch.Tensor] = {}

            def looking(made: Tensors) -> None:
                then.update({name: weight.clone() for name, weight in self.blocks[0].weights().items()})
                assert leave is not None
                leave(made)

            result = self._stage.handle(item, tensors, leave and looking)
            if then:
                seen.append(any(not torch.equal(w, then[name]) for name, w in self.blocks[0].weights().items()))
            return result

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stage, name)

    def watched(setup: WorkerSetup, saver: Saver) -> Any:
        stage = make_stage(setup, saver)
        return Watched(stage) if setup.spec.index == 0 else stage

    two = job(**{**fields, "execution.stages": 2})
    layout = make_layout(two, 2)
    run_workers(two, layout, tmp_path, 0, Parts(watched))
    assert seen == [True] * (sum(isinstance(item, Train) for item in layout.plan.items()) if early else 0)


def test_where_the_seconds_went_adds_up(tmp_path: Path) -> None:
    """Be it in one report or in many, which a run has where it takes long."""
    two = job(**{"execution.stages": 2, "execution.trace": True})
    _, reports = run_workers(two, make_layout(two, 2), tmp_path, 0, report_seconds=0.02)
    assert len(reports) > 2
    for report in reports:
        assert 0 < report.busy_share <= 1
    layout = make_layout(two, 2)
    items = [str(item) for item in layout.plan.items()]
    for index, waits in enumerate(("credit", "input")):
        spans = [span for report in reports if report.stage == index for span in report.spans]
        own_thread = sorted((span for span in spans if span.kind != "publish"), key=lambda span: span.start)
        # Computing is interrupted where a result leaves early.
        assert [label for label, _ in groupby(s.label for s in own_thread if s.kind == "compute")] == items
        assert sum(span.kind == waits for span in own_thread) == len(items)
        assert all(a.start + a.seconds <= b.start + 1e-6 for a, b in pairwise(own_thread)), "one thing at a time"
        last = max((report for report in reports if report.stage == index), key=lambda report: report.seconds)
        assert sum(span.seconds for span in own_thread) <= last.seconds
        for kind, seconds in last.seconds_by_kind.items():
            assert sum(span.seconds for span in spans if span.kind == kind) == pytest.approx(seconds)


def test_a_stage_that_raises_ends_its_run_with_that_error(tmp_path: Path) -> None:
    one = job(**{"execution.stages": 1})
    layout = make_layout(one, 1)

    class Broken(Exception):
        pass

    class BrokenStage(Stage):
        def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
            raise Broken

    def broken_stage(setup: WorkerSetup, saver: Saver) -> Stage:
        return BrokenStage(setup.spec, saver.save)

    store, data = Store(str(tmp_path)), one.splits.fingerprint
    setup = WorkerSetup(layout.stages[0], layout.plan, 9, one.config, store, Start(), data=data)
    with pytest.raises(Broken):
        Worker(setup, Parts(broken_stage, make_own_feed), ThreadLinks(0, 0, [], random.Random(0))).run()


class NoRoom(Exception):
    """An error of the object store."""


class Full(ThreadLinks):
    """Links by which no packet goes out."""

    def to(self, receiver: int, sequence: int, packet: Packet) -> None:
        raise NoRoom


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_that_can_send_nothing_raises_that_while_it_waits(stage: int, tmp_path: Path) -> None:
    """With nothing further to publish: the window of the first one is full, and nothing comes to a later one."""
    three = job(**{"execution.stages": 3, "training.negative_lag": 0})
    layout, raised = make_layout(three, 3), list[BaseException]()
    setup = WorkerSetup(
        layout.stages[stage], layout.plan, 1, three.config, Store(str(tmp_path)), Start(), data=three.splits.fingerprint
    )
    worker = Worker(setup, Parts(), Full(stage, 0, [], random.Random(0)))

    def run() -> None:
        try:
            worker.run()
        except NoRoom as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if stage:
        worker.push(0, 0, Packet(Snapshot(0)))
    thread.join(timeout=60)
    assert len(raised) == 1


def test_data_that_are_others_by_now_are_refused(tmp_path: Path) -> None:
    one = job()
    layout = make_layout(one, 1)
    setup = WorkerSetup(layout.stages[0], layout.plan, 9, one.config, Store(str(tmp_path)), Start())
    make_own_feed(replace(setup, data=one.splits.fingerprint))
    with pytest.raises(UserError, match="not what the run began with"):
        make_own_feed(replace(setup, data="another"))


def test_senders_are_the_stage_before_and_those_with_outputs_for_the_head() -> None:
    four = job(**{"execution.stages": 4})
    routes = [spec.routes for spec in make_layout(four, 4).stages]
    assert [each.senders(index) for index, each in enumerate(routes)] == [(), (0,), (1,), (1, 2)]
    headless = job(**{"execution.stages": 4, "training.head": False, "training.negatives": "random"})
    routes = [spec.routes for spec in make_layout(headless, 4).stages]
    assert [each.senders(index) for index, each in enumerate(routes)] == [(), (0,), (1,), (2,)]

"""The benchmark of other ways to train counts one thing for all of them: CPU time, memory, messages."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import bench_peers
import peer_ff_py
import pytest
import torch
from bench_peers import best_of, seconds_to_error
from peer import data_parallel, own_parts, piped_messages
from peer_ffpipe import TimedStage, timed, told
from peer_networks import WARM_UP
from peer_runs import Figures, contenders, refusal
from process_tree import MemoryWatch, cpu_seconds, tree_of
from threaded_workers import ThreadLinks, copied
from torch import distributed, nn

from ffpipe import UserError, override, recipe
from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.job import Start, make_job
from ffpipe.pipeline.packet import Packet
from ffpipe.pipeline.schedule import Item, Predict, Train
from ffpipe.pipeline.worker import Worker
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup
from ffpipe.planning.layout import make_layout
from ffpipe.storage.store import Store

LITTLE = {
    "training.epochs": 1,
    "training.dims": [64, 20, 20, 20, 10],
    "training.head_from": 0,
    "training.data.train_limit": 600,
    "execution.evaluate_every": 0,
}


class CountingLinks(ThreadLinks):
    """Counts the packets of training that leave a stage, and its answers."""

    def __init__(self, number: int, workers: list[Worker]) -> None:
        super().__init__(number, 0, workers, random.Random(number))
        self.counts: Counter[str] = Counter()

    def to(self, receiver: int, sequence: int, packet: Packet) -> None:
        self.counts["packets"] += isinstance(packet.item, (Train, Predict))
        super().to(receiver, sequence, Packet(packet.item, copied(packet.arrays)))

    def done(self, predictions: Predictions) -> None:
        self.counts["answers"] += 1
        super().done(predictions)


def firsts(item: Item) -> list[int]:
    """Return the first minibatch of an item of training."""
    return [item.first] if isinstance(item, Train) else [item.step] if isinstance(item, Predict) else []


@pytest.mark.parametrize("lag", [9, pytest.param(0, marks=pytest.mark.long)])
def test_messages_of_a_stage_are_those_that_its_worker_sends(lag: int, tmp_path: Path) -> None:
    fields = {**LITTLE, "training.negative_lag": lag, "execution.run_dir": str(tmp_path)}
    job = make_job(override(recipe("digits"), fields))
    layout, workers, links = make_layout(job, 3), list[Worker](), list[CountingLinks]()
    for number, spec in enumerate(layout.workers):
        links.append(CountingLinks(number, workers))
        store, data = Store(str(tmp_path)), job.splits.fingerprint
        setup = WorkerSetup(spec, layout.plan, layout.window, job.config, store, Start(), data=data)
        workers.append(Worker(setup, Parts(TimedStage), links[-1]))
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    items = list(layout.plan.items())
    training = sum(isinstance(item, (Train, Predict)) for item in items)
    read = [json.loads((tmp_path / f"clock-{stage}.json").read_text()) for stage in range(3)]
    behind = next(first for item in items for first in firsts(item) if first >= WARM_UP)
    assert [clock["first"] for clock in read] == [behind] * 3
    clocks = [clock["messages"] for clock in read]
    assert clocks == [links[0].counts["packets"], links[1].counts["packets"], training]
    assert clocks[0] > training  # its outputs go straight to the read-out too
    assert links[2].counts == {"answers": len(items)}


def test_busy_is_cpu_time_over_the_time_of_training(tmp_path: Path) -> None:
    clocks = [
        {"began": 10.0, "ended": 18.0, "cpu": 6.0, "messages": 20, "first": 5},
        {"began": 12.0, "ended": 20.0, "cpu": 5.0, "messages": 10, "first": 5},
    ]
    found = told(40, 2, clocks)
    assert found == {"rate": 7.0, "busy": [0.6, 0.5], "messages": [0.5, 0.25]}
    assert Figures.of([json.dumps(found)]) == Figures(7.0, 0.55, 0.75)
    ranks = [{"rate": rate, "busy": [busy], "messages": [2.0]} for rate, busy in ((8.0, 0.75), (9.0, 0.25))]
    assert Figures.of([json.dumps(each) for each in ranks]) == Figures(8.0, 0.5, 4.0)
    one = timed(
        override(
            recipe("digits"),
            {**LITTLE, "execution.engine": "local", "execution.stages": 1, "execution.run_dir": str(tmp_path / "run")},
        )
    )
    assert one["messages"] == [0.0]
    assert one["busy"][0] > 0


@pytest.mark.parametrize(
    ("way", "world", "microbatches", "messages"),
    [("gpipe", 2, 2, 4), ("1f1b", 4, 4, 24), ("interleaved", 2, 2, 12), ("one", 1, 1, 0)],
)
def test_a_pipeline_sends_activities_and_gradients(way: str, world: int, microbatches: int, messages: int) -> None:
    ranks = [own_parts(way, world, rank) for rank in range(world)]
    assert sum(piped_messages(own, parts, microbatches) for own, parts in ranks) == messages
    assert sorted(part for own, _ in ranks for part in own) == list(range(ranks[0][1]))


def test_a_bucket_that_is_summed_is_a_message_and_so_are_buffers(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        module, sent = data_parallel(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), 0)
        for _ in range(4):
            module(torch.rand(6, 4)).sum().backward()
        assert sent.a_minibatch(4) == 1 + 2  # a bucket, floating-point buffers, and a count
        assert data_parallel(nn.BatchNorm1d(4), 1)[1].a_minibatch(1) == 0  # buffers are the first rank's to hand out
    finally:
        distributed.destroy_process_group()


def test_there_are_contenders_for_each_number_of_stages() -> None:
    two, four = ([way.name for way in contenders("dense", stages, [2, 4, 8])] for stages in (2, 4))
    assert "interleaved 1F1B, 2 stages, 8 microbatches" in two
    assert {"GPipe, 4 stages, 8 microbatches", "data parallel, 4 processes", "ffpipe, class heads, 4 stages"} < {*four}
    assert not [name for name in four if "interleaved" in name or "2 microbatches" in name]
    assert "ffpipe, hard negatives, one process" in two
    assert "ffpipe, class heads in parts, 2 stages, 4 microbatches" in [way.name for way in contenders("dgl", 2, [4])]


@pytest.mark.parametrize(("stages", "allowed"), [(1, False), (2, True), (3, False), (4, True), (8, False)])
def test_stages_share_blocks_and_minibatches(stages: int, allowed: bool) -> None:
    assert (refusal("dgl", stages) == "") is allowed


def test_a_pipeline_is_shown_with_its_best_microbatches() -> None:
    names = ["GPipe, 2 stages, 2 microbatches", "GPipe, 2 stages, 4 microbatches", "GPipe, 4 stages, 4 microbatches"]
    rates = {name: [Figures(rate, 0.5, 1.0)] for name, rate in zip([*names, "one process"], (5, 6, 4, 3), strict=True)}
    assert list(best_of(rates)) == [*names[1:], "one process"]


def test_seconds_to_an_error_that_was_not_reached_are_more_than_those_tried() -> None:
    assert seconds_to_error({"examples": 9000, "there": True}, 100.0) == "90"
    assert seconds_to_error({"examples": 9000, "there": False}, 100.0) == "> 90"


SHARES = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
    assert sum(held[::4096]) == 0
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="shares of memory are in Linux's /proc")
def test_memory_of_a_tree_counts_once_what_its_processes_share(tmp_path: Path) -> None:
    (tmp_path / "shared").write_bytes(bytes(32 << 20))
    command = [sys.executable, "-S", "-c", SHARES, str(tmp_path / "shared")]
    others = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == b"there\n"
        assert {other.pid for other in others} < tree_of([os.getpid()])
        watch, nothing = (MemoryWatch([each.pid for each in others], title) for title in (sys.executable, "ray::"))
        watch.look()
        nothing.look()
        assert 32 << 20 < watch.whole < 60 << 20  # each by itself has more than 32 MiB resident
        assert 16 << 20 < watch.largest < 30 << 20
        assert (watch.titled, nothing.titled) == (watch.largest, 0)
    finally:
        for other in others:
            other.communicate()
    watch.look()
    assert watch.whole > 32 << 20  # the most stays


@pytest.mark.skipif(sys.platform != "linux", reason="it is in Linux's /proc")
def test_cpu_time_of_a_process_is_that_of_all_its_threads() -> None:
    before = time.process_time()
    found = cpu_seconds(os.getpid())
    assert before - 0.1 < found < time.process_time() + 0.1


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder laid out as a copy of ff-py, whose program only prints lines."""
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "mnist.py").touch()
    lines = ["Batchsize: 100", *(f"ep {n:3} gain 1.000 trainlogcost 61.8 PairwiseErrs: 1, 2, 3" for n in range(9))]
    (tmp_path / "main.py").write_text(f"import time\nfor line in {lines}:\n    print(line)\n    time.sleep(0.05)\n")
    return tmp_path


def test_ff_py_is_timed_by_the_lines_that_it_prints(copy: Path) -> None:
    assert list(peer_ff_py.programs(copy)) == ["NumPy"]
    seconds, busy = peer_ff_py.seconds_of_epoch(copy / "main.py", 1)
    assert seconds > 0.04
    assert busy < 1
    (copy / "main.py").write_text("print('ep   0 gain 1.000')\nraise SystemExit('no scipy here')")
    with pytest.raises(UserError, match="ended before 3 epochs: no scipy here"):
        peer_ff_py.seconds_of_epoch(copy / "main.py", 1)


def test_what_is_not_a_copy_of_ff_py_is_refused_in_a_line(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "mnist.py").unlink()
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", "--ff-py", str(copy)])
    with pytest.raises(SystemExit, match="2"):
        bench_peers.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is not a copy of ff-py, for there is no mnist.py: give the folder of its main.py")

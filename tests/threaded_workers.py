"""Workers without Ray: in threads, with messages that arrive late and out of order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.job import Job, Layout, Start
from ffpipe.pipeline.packet import Arrays, Packet
from ffpipe.pipeline.worker import REPORT_SECONDS, Worker
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup
from ffpipe.storage.store import Store
from ffpipe.telemetry.report import StageReport


def copied(arrays: Arrays) -> Arrays:
    return {name: array._replace(data=array.data.copy()) for name, array in arrays.items()}


class ThreadLinks:
    """A delivery of each message from a thread of its own, after a wait that depends on chance. Rows are copied only
    where a stage has replicas."""

    def __init__(self, number: int, replica: int, workers: list[Worker], chance: random.Random) -> None:
        self.number, self.replica, self.workers, self.chance = number, replica, workers, chance

    def to(self, receiver: int, sequence: int, packet: Packet) -> None:
        sent = packet
        if any(worker.delivery.others for worker in self.workers):
            sent = Packet(packet.item, copied(packet.arrays))
        self._later(lambda: self.workers[receiver].push(sequence, self.number, sent))

    def done(self, predictions: Predictions) -> None:
        self.workers[0].done(predictions)

    def to_replicas(self, number: int, name: str, sums: Arrays) -> None:
        sent = copied(sums)
        for other in self.workers[self.number].delivery.others:
            self._later(partial(self.workers[other].reducer.put, number, self.replica, name, sent))

    def read(self, arrays: Arrays) -> None:
        """Do nothing: nothing lies in shared memory here."""

    def _later(self, deliver: Callable[[], None]) -> None:
        threading.Timer(self.chance.random() / 200, deliver).start()


def run_workers(
    job: Job,
    layout: Layout,
    folder: Path,
    seed: int = 1,
    parts: Parts | None = None,
    report_seconds: float = REPORT_SECONDS,
) -> tuple[list[Worker], list[StageReport]]:
    """Run workers; return them after their run, and the reports of each in turn."""
    workers: list[Worker] = []
    chance = random.Random(seed)
    for number, spec in enumerate(layout.workers):
        store, data = Store(str(folder)), job.splits.fingerprint
        setup = WorkerSetup(
            spec, layout.plan, layout.window, job.config, store, Start(), data=data, leaves_early=layout.leaves_early
        )
        links = ThreadLinks(number, spec.replica, workers, chance)
        workers.append(Worker(setup, parts or Parts(), links, report_seconds))
    reports: dict[int, list[StageReport]] = {}

    def run(number: int) -> None:
        reports[number] = workers[number].run()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    return workers, [report for number in range(len(workers)) for report in reports[number]]

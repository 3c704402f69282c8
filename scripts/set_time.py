"""Stages that take a set time without a processor, as on GPUs, and send real arrays by the engine of a real run."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ffpipe.config.schema import Config, Execution, Training
from ffpipe.data.splits import Splits
from ffpipe.engines.ray.settings import prepare_ray
from ffpipe.learn.blueprint import make_blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.learn.negatives import Predictions
from ffpipe.learn.shards import Exchange
from ffpipe.learn.spec import RowSpec
from ffpipe.pipeline.job import Job, Layout, Start
from ffpipe.pipeline.packet import LABELS, Tensors, X
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Item, Train
from ffpipe.pipeline.stage import Leave
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.layout import Measured
from ffpipe.storage.checkpoint import Input
from ffpipe.storage.store import Store
from ffpipe.telemetry.report import StageReport
from ffpipe.telemetry.spans import TraceFile

prepare_ray()
from ffpipe.engines.ray.engine import RayEngine  # noqa: E402  # Ray reads its settings when it is imported

CLASSES = 10
# Numbers that replicas of a stage exchange for each minibatch: as many as a convolution of 100 channels has weights.
GRADIENT = 90_000


class SetTimeStage:
    """A stand-in for layers: it waits, and hands on an array of the right size."""

    device = torch.device("cpu")

    def __init__(self, setup: WorkerSetup, saver: Saver, seconds: float, after: float) -> None:
        """seconds: a minibatch, of each layer. after: of these, those after its result is there (a backward pass)."""
        spec = setup.spec
        self.setup, self.after = setup, after
        self.share = share_of(setup)
        self.seconds = seconds * len(spec.layers) * self.share
        self.step = 0
        self.rows = _rows(setup, spec.network.edges[spec.layers.stop])
        self.labels = torch.zeros(setup.plan.chunk, round(spec.training.batch_size * self.share), dtype=torch.int64)
        self.gradient = torch.zeros(GRADIENT)
        self.exchange: Exchange | None = None

    def join(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
        if not isinstance(item, Train):
            return None
        if self.exchange is None:
            time.sleep(self.seconds * item.count - self.after)
        else:
            for _ in range(item.count):
                time.sleep(self.seconds)
                self.exchange("gradient", [self.gradient.clone()])
        made = None if self.setup.spec.is_last else {X: self.rows[: item.count], LABELS: self.labels[: item.count]}
        if made is not None and leave is not None:
            leave(made)
            made = None
        time.sleep(self.after)
        self.step = item.end
        return made

    def predictions(self, item: Item) -> Predictions:
        training = self.setup.spec.training
        if not isinstance(item, Train) or training.lookahead is None:
            return {}
        made = np.zeros((training.batch_size, CLASSES), dtype=np.float32)
        return {step + training.lookahead: made for step in range(item.first, item.end)}

    def report(self) -> StageReport:
        return StageReport(self.setup.spec.index, tuple(self.setup.spec.layers), step=self.step)


class SetTimeFeed:
    """A feed that hands a replica of the first stage an array of the right size."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.rows = _rows(setup, setup.spec.network.inputs)

    def take_predictions(self, made: Predictions) -> None:
        pass

    def tensors(self, item: Item) -> Tensors | None:
        return {X: self.rows[: item.count]} if isinstance(item, Train) else None


def share_of(setup: WorkerSetup) -> float:
    """Return the share of a minibatch that this replica has."""
    return len(setup.spec.shards) / setup.spec.training.shards


def _rows(setup: WorkerSetup, edge: RowSpec) -> torch.Tensor:
    """Make the rows of a chunk: positive, negative and neutral ones."""
    rows = round(setup.spec.network.layout.rows * share_of(setup))
    return torch.rand(setup.plan.chunk, rows, *edge.shape, dtype=edge.dtype)


@dataclass
class NoSplits:
    """No data: sizes alone."""

    classes: int = CLASSES
    train: tuple[int, ...] = ()
    most_in_sight: int = 0
    validation: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
    fingerprint: str = ""


class SetTimeEngine(RayEngine):
    """The Ray engine with such stages."""

    def __init__(self, seconds: float, after: float = 0.0) -> None:
        """seconds, after: of each layer, as for `SetTimeStage`."""
        super().__init__(Parts(partial(SetTimeStage, seconds=seconds, after=after), SetTimeFeed))
        self.seconds, self.after = seconds, after

    def measure(self, job: Job) -> Measured:
        costs = [costs_of(job, self.seconds, self.after)] * len(self.group.processes)
        return Measured(costs, self.message_seconds())

    def _supply(self, job: Job) -> dict[str, tuple[str, ...]]:
        return {}  # there are no data


def costs_of(job: Job, seconds: float, after: float = 0.0) -> Costs:
    """Return the costs of such layers."""
    return Costs((seconds,) * job.layers, 0.0, (after,) * job.layers)


def make_job(
    layers: int,
    steps: int,
    *,
    stages: int = 0,
    width: int = 1000,
    batch: int = 100,
    negatives: str = "random",
    lag: int = 128,
    chunk: int = 0,
    trace: bool = False,
    placement: str = "pack",
    replicas: int = 1,
    shards: int = 1,
) -> Job:
    """Return the layers of one width, whose replicas may be more than this host has CPUs, since they take none. stages:
    0 for one a layer. A packet has 1.2 MB a minibatch at 100 rows of 1000."""
    training = Training(
        dims=(width,) * (layers + 1),
        epochs=1,
        batch_size=batch,
        head_from=max(0, layers - 2),  # no features go past a stage
        goodness_from=min(1, layers - 1),
        negatives=negatives,  # type: ignore[arg-type]  # str
        negative_lag=lag,
        shards=shards,
    )
    execution = Execution(
        stages=stages or layers,
        replicas=replicas,
        cpus=0.01 if replicas > 1 else 0.0,
        chunk=chunk,
        trace=trace,
        start_timeout=120,
        placement=placement,  # type: ignore[arg-type]  # str
    )
    inputs, labels = row_specs(training, (width,), CLASSES)
    network = make_blueprint(training, Input((width,), inputs.size, CLASSES), inputs, labels, steps)
    return Job(Config(training=training, execution=execution), cast(Splits, NoSplits()), network)


def run(engine: RayEngine, job: Job, layout: Layout, trace: Path | None = None) -> dict[str, float]:
    """Run, and return its seconds: from the last stage's first minibatch to its last, and of the whole; of filling,
    from the first stage's first minibatch to the last stage's, and of draining, from the one's last to the other's; the
    driver's own work as a share of a core, and the publishers' of their time."""
    reports: list[StageReport] = []
    began, worked = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        engine.run(job, layout, Store(folder), Start(), Path(folder), reports.append)
    driver = (time.process_time() - worked) / (time.perf_counter() - began)
    reports = [report for report in reports if not report.replica]
    final = {report.stage: report for report in sorted(reports, key=lambda r: r.seconds)}
    if trace is not None:
        file = TraceFile(trace)
        for report in reports:
            file.add(report.stage, f"stage {report.stage}", report.spans)
        file.close()
    first, last = final[0], final[max(final)]
    return {
        "fill": last.began_at + last.train_began - first.began_at - first.train_began,
        "drain": last.began_at + last.train_seconds - first.began_at - first.train_seconds,
        "last": last.train_seconds - last.train_began,
        "whole": max(report.train_seconds for report in final.values()),
        "driver": driver,
        "publish": statistics.mean(r.seconds_by_kind.get("publish", 0.0) / r.seconds for r in final.values()),
    }

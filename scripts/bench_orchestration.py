"""What the pipeline itself costs: stages that take a set time without a processor, as on GPUs, and send real arrays.

    python scripts/bench_orchestration.py [--stages 2 4 8 16 32] [--milliseconds 20] [--steps 300] [--rounds 5]

Every stage is an actor that sleeps 20 ms a minibatch and sends on a real array of 1.2 MB (300 rows of 1000
float32) through Ray, by the worker, inbox, window and publisher of a real run. `efficiency` is the throughput
as a share of the slowest stage's rate (1 / 20 ms): in steady state (between the last stage's first and last
minibatch), and `whole` with filling and draining. Hard negatives go back to the source under a window of `--lag`
minibatches; random ones under the window that the run chooses. Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from arguments import positive
from rich.console import Console
from rich.table import Table

from ffpipe.config import Config, Execution, Training
from ffpipe.data.splits import Splits
from ffpipe.pipeline.calibrate import Costs
from ffpipe.pipeline.job import Job, Layout, Measured, Start, make_layout
from ffpipe.pipeline.links import Predictions
from ffpipe.pipeline.ray_settings import prepare_ray
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Item, Train
from ffpipe.pipeline.streams import Streams
from ffpipe.pipeline.worker import Parts, WorkerSetup
from ffpipe.store import Store
from ffpipe.telemetry.report import StageReport
from ffpipe.telemetry.spans import TraceFile

prepare_ray()
from ffpipe.pipeline.ray_engine import RayEngine  # noqa: E402  # Ray reads its settings when it is imported

BATCH, WIDTH, CLASSES = 100, 1000, 10


class SetTimeStage:
    """Stands in for layers: waits, and hands on an array of the right size."""

    device = torch.device("cpu")

    def __init__(self, setup: WorkerSetup, saver: Saver, seconds: float) -> None:
        self.setup = setup
        self.seconds = seconds
        self.step = 0
        self.rows = torch.rand(setup.plan.chunk, 3 * BATCH, WIDTH)
        self.labels = torch.zeros(setup.plan.chunk, BATCH, dtype=torch.int64)

    def handle(self, item: Item, streams: Streams | None) -> Streams | None:
        if not isinstance(item, Train):
            return None
        time.sleep(self.seconds * item.count)
        self.step = item.end
        return None if self.setup.spec.is_last else Streams(self.rows[: item.count], self.labels[: item.count])

    def predictions(self, item: Item) -> Predictions:
        if not isinstance(item, Train) or self.setup.spec.training.negatives != "hard":
            return {}
        lag = self.setup.spec.training.negative_lag
        return {step + lag: np.zeros((BATCH, CLASSES), dtype=np.float32) for step in range(item.first, item.end)}

    def report(self) -> StageReport:
        return StageReport(self.setup.spec.index, tuple(self.setup.spec.layers), step=self.step)


class SetTimeFeed:
    """Hands the first stage an array of the right size."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.rows = torch.rand(setup.plan.chunk, 3 * BATCH, WIDTH)

    def predictions(self, made: Predictions) -> None:
        pass

    def streams(self, item: Item) -> Streams | None:
        return Streams(self.rows[: item.count]) if isinstance(item, Train) else None


@dataclass
class NoSplits:
    """No data: sizes alone."""

    classes: int = CLASSES
    validation: tuple[int, ...] = ()
    test: tuple[int, ...] = ()


class SetTimeEngine(RayEngine):
    """The Ray engine with such stages."""

    def __init__(self, seconds: float) -> None:
        super().__init__(Parts(partial(SetTimeStage, seconds=seconds), SetTimeFeed))
        self.seconds = seconds

    def measure(self, job: Job) -> Measured:
        costs = Costs((self.seconds,) * job.layers, 0.0)
        return Measured([costs] * job.layers, self.message_seconds(job.minibatch_bytes))


def make_job(stages: int, steps: int, negatives: str, lag: int, chunk: int, trace: bool) -> Job:
    training = Training(
        dims=(WIDTH,) * (stages + 1),
        epochs=1,
        batch_size=BATCH,
        head_from=max(0, stages - 2),  # the head sees the last two layers: what travels is 1.2 MB a minibatch
        negatives=negatives,  # type: ignore[arg-type]  # str
        negative_lag=lag,
    )
    config = Config(training=training, execution=Execution(stages=stages, chunk=chunk, trace=trace, start_timeout=120))
    return Job(config, cast(Splits, NoSplits()), WIDTH, steps)


def run(engine: SetTimeEngine, job: Job, layout: Layout, trace: Path | None) -> dict[str, float]:
    """Shares of the slowest stage's rate, and the driver's own seconds of work as a share of a core."""
    reports: list[StageReport] = []
    began, worked = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        engine.run(job, layout, Store(folder), Start(), Path(folder), reports.append)
    driver = (time.process_time() - worked) / (time.perf_counter() - began)
    final = {report.stage: report for report in sorted(reports, key=lambda r: r.seconds)}
    if trace is not None:
        file = TraceFile(trace)
        for report in reports:
            file.add(report.stage, f"stage {report.stage}", report.spans)
        file.close()
    needed = job.steps * engine.seconds
    last = final[max(final)]
    return {
        "steady": needed / (last.train_seconds - last.train_began),
        "whole": needed / max(report.train_seconds for report in final.values()),
        "driver": driver,
        "publish": statistics.mean(r.seconds_by_kind["publish"] / r.seconds for r in final.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", type=positive, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--milliseconds", type=float, default=20.0)
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--lag", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--trace", type=Path, help="write the last run of each number of stages here, as FILE-N.json")
    options = parser.parse_args()
    table = Table("stages", "negatives", "chunk", "window", "steady", "least", "most", "whole", "driver", "publishing")
    rows: list[dict[str, Any]] = []
    for stages in options.stages:
        engine = SetTimeEngine(options.milliseconds / 1e3)
        try:
            jobs = {
                rule: make_job(stages, options.steps, rule, options.lag, options.chunk, options.trace is not None)
                for rule in ("random", "hard")
            }
            first = engine.layout(jobs["random"])
            layouts = {"random": first, "hard": make_layout(jobs["hard"], stages, engine.measure(jobs["hard"]))}
            found: dict[str, list[dict[str, float]]] = {rule: [] for rule in jobs}
            for _ in range(options.rounds):
                for rule, job in jobs.items():
                    name = options.trace and options.trace.with_name(f"{options.trace.name}-{rule}-{stages}.json")
                    found[rule].append(run(engine, job, layouts[rule], name))
        finally:
            engine.close()
        for rule, values in found.items():
            middle = {key: statistics.median(v[key] for v in values) for key in values[0]}
            steady = [value["steady"] for value in values]
            layout = layouts[rule]
            table.add_row(
                str(stages),
                rule,
                str(layout.plan.chunk),
                str(layout.window),
                *(f"{x:.3f}" for x in (middle["steady"], min(steady), max(steady), middle["whole"])),
                f"{middle['driver']:.1%}",
                f"{middle['publish']:.1%}",
            )
            sizes = {"stages": stages, "negatives": rule, "chunk": layout.plan.chunk, "window": layout.window}
            rows.append({**sizes, "efficiency": middle["steady"], **{k: v for k, v in middle.items() if k != "steady"}})
    Console(width=120).print(table)
    print(
        json.dumps(
            {"benchmark": "orchestration", "milliseconds": options.milliseconds, "lag": options.lag, "rows": rows}
        )
    )


if __name__ == "__main__":
    main()

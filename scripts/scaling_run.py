"""One point of scripts/scaling.py, measured in a process of its own: sizes in, rates out, as JSON. And its forecast.

Layers are real ones (digits through layers of one width, on as many stages as there are cores), or take a set time.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from set_time import SetTimeEngine, costs_of, make_job, run

from ffpipe import override, recipe
from ffpipe.engines.ray.engine import RayEngine
from ffpipe.pipeline import job as jobs
from ffpipe.pipeline.job import Job
from ffpipe.planning.calibrate import Costs, measure_side_by_side
from ffpipe.planning.forecast import Conditions, forecast, link_costs, loads_of, simulated
from ffpipe.planning.message_costs import kept_costs

CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Point:
    """layers: "set" (milliseconds a minibatch, each) or "real". link: bytes a second between hosts; 0: one host."""

    layers: str
    depth: int
    stages: int
    steps: int
    rounds: int
    milliseconds: float = 20.0
    width: int = 1000
    batch: int = 100
    negatives: str = "random"
    lag: int = 128
    link: float = 0.0


def main() -> None:
    point = Point(**json.loads(sys.argv[1]))
    job = job_of(point)
    # Before there are actors, which would share the cores.
    costs = {copies: costs_of_point(point, job, copies) for copies in {1, min(point.stages, CORES)}}
    engine = SetTimeEngine(point.milliseconds / 1e3) if point.layers == "set" else RayEngine()
    told = {str(copies): {"layers": each.layers, "head": each.head} for copies, each in costs.items()}
    print(json.dumps({"costs": told} | measure(engine, job, point.rounds)))


def costs_of_point(point: Point, job: Job, copies: int) -> Costs:
    """Measure the costs of a point's layers, on so many cores at once."""
    if point.layers == "set":
        return costs_of(job, point.milliseconds / 1e3)
    return measure_side_by_side(job.network, copies)


def job_of(point: Point) -> Job:
    return set_time_job(point) if point.layers == "set" else real_job(point)


def set_time_job(point: Point) -> Job:
    return make_job(
        point.depth,
        point.steps,
        stages=point.stages,
        width=point.width,
        batch=point.batch,
        negatives=point.negatives,
        lag=point.lag,
        placement="one-host-each" if point.link else "pack",
    )


def real_job(point: Point) -> Job:
    """Make a job of so many steps at least."""
    fields = {
        "training.dims": [64, *[point.width] * point.depth],
        "training.batch_size": point.batch,
        "training.epochs": -(-point.steps // (1400 // point.batch)),
        "training.negatives": point.negatives,
        "training.negative_lag": point.lag,
        "training.head_from": max(0, point.depth - 2),
        "training.goodness_from": 0,
        "execution.stages": point.stages,
        "execution.evaluate_every": 0,
    }
    return jobs.make_job(override(recipe("digits"), fields))


def forecast_of(point: Point, costs: dict[str, Any]) -> dict[str, Any]:
    """Forecast such layers as `ffpipe plan` does, and the whole of this run, simulated message by message."""
    known = {int(copies): Costs(tuple(each["layers"]), each["head"]) for copies, each in costs.items()}
    job, links, real = job_of(point), link_costs(point.link or None, costs=kept_costs()), point.layers == "real"
    conditions = Conditions(
        lambda stage, copies: known[copies], links, int(point.link > 0), float(CORES), computes=real, reads=real
    )
    expected = forecast(job, point.stages, conditions)
    layout = expected.layout
    loads = loads_of(layout, conditions.costs_among([1] * point.stages), conditions)
    whole = simulated(layout, loads, links, conditions.host_layout(point.stages))
    batch = job.config.training.batch_size
    return {
        # With as many steps as were measured, a long pipeline is hardly full.
        "forecast": batch / whole.last_seconds(),
        "forecast_whole": job.steps * batch / whole.seconds,
        "slowest_stage": batch / expected.step_seconds,
        "one_stage": batch / expected.one_stage_seconds,
        "forecast_chunk": layout.plan.chunk,
        "bottleneck": expected.bottleneck,
    }


def measure(engine: RayEngine, job: Job, rounds: int) -> dict[str, Any]:
    """Measure examples a second in the full pipeline and in whole runs; medians of the rounds, and least and most."""
    batch = job.config.training.batch_size
    try:
        layout = engine.layout(job)
        runs = [run(engine, job, layout) for _ in range(rounds)]
    finally:
        engine.close()
    # Packets that came in before the last stage's first minibatch was ready are not part of its time.
    steady = [job.steps * batch / each["last"] for each in runs]
    whole = [job.steps * batch / each["whole"] for each in runs]
    return {
        "measured": statistics.median(steady),
        "least": min(steady),
        "most": max(steady),
        "whole": statistics.median(whole),
        "chunk": layout.plan.chunk,
        "window": layout.window,
    }


if __name__ == "__main__":
    main()

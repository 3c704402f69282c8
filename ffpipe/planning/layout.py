"""The cut of a job into stages, and the sizes of its chunks and window: by what was measured and the room there is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ffpipe.config.schema import Device, of_stage
from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.partition import partition
from ffpipe.pipeline.schedule import Plan
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.pipeline.window import choose_chunk, choose_window, largest_chunk
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.cost import costs_of
from ffpipe.planning.memory import StoreCapacity, evaluation_batch, fitting
from ffpipe.system.errors import UserError

# Neighbours whose link is timed; on one host they are all alike, and each costs a few milliseconds.
MEASURED_EDGES = 4


@dataclass(frozen=True)
class Measured:
    """Figures from the stages themselves: costs of all layers on the device of each, and seconds a message."""

    costs: Sequence[Costs]
    message_seconds: float


def make_layout(
    job: Job,
    stages: int,
    measured: Measured | None = None,
    room: StoreCapacity | None = None,
    devices: Sequence[Device] | None = None,
    counts: Sequence[int] = (),
) -> Layout:
    """Cut a job into `stages` stages and size its chunks and window: by what was measured, and to the room there is.

    devices: of the stages; None: as the config has them. counts: replicas of each; none given: one each.

    Raises UserError where the chunk or window that was asked for, or a single minibatch, does not fit.
    """
    training, execution = job.config.training, job.config.execution
    # No message has more minibatches than the run.
    execution = replace(execution, chunk=min(execution.chunk, job.steps))
    job = replace(job, config=replace(job.config, execution=execution))
    try:
        layers, step_seconds, message_seconds = _cut(job, stages, measured, counts)
    # More stages than layers have been refused (pipeline/job.py): it is the memory of a stage that no cut keeps to.
    except ValueError as error:
        raise UserError(f"{error}: give more stages or a larger execution.memory_budget") from None
    devices = devices or [of_stage(execution.device, index) for index in range(stages)]
    specs = tuple(
        StageSpec(index, tuple(layers), job.network, job.steps, job.log_steps, device, tuple(counts))
        for index, device in enumerate(devices)
    )
    fits = None if room is None else fitting(specs, room, execution.window, execution.chunk)
    most = min(n for n in (largest_window(job), training.most_in_flight, fits) if n is not None)
    largest = largest_chunk(job.minibatch_bytes)
    chunk = execution.chunk or choose_chunk(stages, most, step_seconds, message_seconds, largest)
    window = execution.window or choose_window(
        stages, chunk, training.most_in_flight, job.minibatch_bytes, execution.window_bytes
    )
    window = window if fits is None else min(window, fits)
    every = execution.evaluate_every * job.steps_per_epoch
    plan = Plan(
        steps=job.steps,
        chunk=chunk,
        lockstep=training.lookahead == 0,
        evaluations={"train": every, "validation": every, "test": 0},
        sizes=job.tested,
        evaluation_batch=evaluation_batch(job.network, chunk),
        snapshot_steps=execution.snapshot_steps,
    )
    # Then each stage but the first holds a message that it still learns from beside those in flight.
    early = fits is None or window + (stages - 1) * chunk <= fits
    return Layout(specs, plan, window, leaves_early=early)


def largest_window(job: Job) -> int:
    """Return the minibatches that may be in flight by the window, or its bytes, that were asked for."""
    execution = job.config.execution
    return max(1, execution.window or execution.window_bytes // job.minibatch_bytes)


def store_here(job: Job, stages: int) -> StoreCapacity | None:
    """Return the object store that all stages share in a cluster of our own; None where Ray chooses its size."""
    size = job.config.execution.object_store_bytes
    if not size or os.environ.get("RAY_ADDRESS"):
        return None
    return StoreCapacity(["here"] * stages, {"here": size}, lambda need: f"--execution.object-store-bytes {need}")


def _cut(job: Job, stages: int, measured: Measured | None, counts: Sequence[int]) -> tuple[list[range], float, float]:
    """Return the layers of each stage, seconds a minibatch of the slowest, seconds a message."""
    # A chunk that is chosen follows from the cut: a stage is to have room for the largest that may come of it.
    chunk = job.config.execution.chunk or largest_chunk(job.minibatch_bytes)
    if measured is None:
        costs = [float(cost.flops) for cost in costs_of(job.network)]
        return partition([costs] * stages, None, lambda layers: job.fits(layers, chunk)), 0.0, 0.0
    shares = counts or [1] * stages
    seconds = [[each / count for each in costs.layers] for costs, count in zip(measured.costs, shares, strict=True)]
    extra = [0.0] * (stages - 1) + [measured.costs[-1].head / shares[-1]]
    layers = partition(seconds, extra, lambda layers: job.fits(layers, chunk))
    slowest = max(sum(seconds[s][i] for i in group) + extra[s] for s, group in enumerate(layers))
    return layers, slowest, measured.message_seconds

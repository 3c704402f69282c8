"""An estimate as a table for people."""

from __future__ import annotations

from rich.table import Table

from ffpipe.memory import say_size
from ffpipe.pipeline.calibrate import Costs
from ffpipe.pipeline.job import Job
from ffpipe.pipeline.plan import Estimate, StageEstimate

COLUMNS = ("process", "data", "parameters", "optimizer", "buffers", "messages", "snapshot", "mapped", "in all")


def table_of(estimate: Estimate) -> Table:
    """A row for each process, a column for each kind of bytes."""
    table = Table("layers", *COLUMNS)
    for stage in estimate.stages:
        first, last = stage.layers[0], stage.layers[-1]
        name = str(first) if first == last else f"{first}-{last}"
        table.add_row(name, *(say_size(size) for size in _sizes(stage)))
    return table


def _sizes(stage: StageEstimate) -> tuple[int, ...]:
    held = stage.holding
    kinds = (held.parameters, held.optimizer, held.buffers, held.messages, held.snapshot)
    return (stage.process, stage.data, *kinds, stage.mapped, stage.resident)


def lines_of(job: Job, estimate: Estimate) -> list[str]:
    """What concerns no single stage."""
    layout, engine = estimate.layout, job.config.execution.engine
    inflight = "chapter" if engine == "layerwise" else "window"
    lines = [
        f"engine {engine}, {len(layout.stages)} stage(s), chunk {layout.plan.chunk}, {inflight} {layout.window}",
        f"largest process: {say_size(estimate.largest)}",
    ]
    if estimate.store:
        lines.append(f"object store, if one host has all stages: {say_size(estimate.store)}")
    if estimate.disk:
        lines.append(f"disk for parked stages and activations: {say_size(estimate.disk)}")
    return lines


def time_of(job: Job, estimate: Estimate, costs: Costs, cores: int) -> str:
    """Seconds of training from what was measured for a step of each layer on this machine, by one core."""
    stages = [sum(costs.layers[i] for i in spec.layers) for spec in estimate.layout.stages]
    stages[-1] += costs.head
    side_by_side = job.config.execution.engine == "ray"
    # Stages share the cores that there are.
    step = max(max(stages), sum(stages) / cores) if side_by_side else sum(stages)
    slowest = stages.index(max(stages))
    where = f", the slowest stage is {slowest}" if side_by_side and len(stages) > 1 else ""
    rate = job.config.training.batch_size / step
    return f"{job.steps * step:,.0f} s for {job.steps:,} steps ({rate:,.0f} examples/s{where}), evaluations not counted"

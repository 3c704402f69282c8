"""An estimate as a table for people."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.table import Table

from ffpipe.pipeline.job import Job, Layout
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.estimate import Estimate, StageEstimate
from ffpipe.planning.forecast import Ground, Outlook
from ffpipe.system.units import say_rate, say_seconds, say_size

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
    kept = job.config.execution.keep_snapshots
    lines.append(f"disk for each snapshot: {say_size(estimate.snapshot)}; the newest {kept} are kept")
    return lines


def time_of(job: Job, costs: Costs) -> str:
    """Of training in one process, where one layer is worked after the other."""
    step = sum(costs.layers) + costs.head
    rate = job.config.training.batch_size / step
    return f"{say_seconds(job.steps * step)} for {job.steps:,} steps ({rate:,.0f} examples/s), evaluations not counted"


def table_of_outlooks(job: Job, rows: Sequence[tuple[Outlook, Estimate]], link: float | None) -> Table:
    """A row for each number of stages. link: bytes a second, where stages are on several hosts."""
    table = Table("stages", "layers of each", "chunk", "window", "examples/s", "speed-up", "efficiency", "time")
    for name in ("largest stage", *(["out of a host"] if link else []), "bottleneck"):
        table.add_column(name)
    for outlook, estimate in rows:
        plan = outlook.layout.plan
        rate = job.config.training.batch_size / outlook.steady_seconds
        times = outlook.one_stage_seconds / outlook.steady_seconds
        cells = [str(outlook.stages), _cut(outlook.layout), str(plan.chunk), str(outlook.layout.window)]
        cells += [f"{rate:,.0f}", f"{times:.2f}", f"{outlook.efficiency:.3f}", say_seconds(outlook.seconds)]
        cells += [say_size(estimate.largest)]
        cells += [f"{say_rate(outlook.link_rate)} ({outlook.link_rate / link:.0%})"] if link else []
        table.add_row(*cells, outlook.bottleneck)
    return table


def words_of(ground: Ground, link: float | None) -> str:
    """What a forecast stands on. link: bytes a second of a host's network, if it has a part in it."""
    wires = ground.wires
    where = f"{ground.stages_per_host} stage(s) a host" if ground.stages_per_host else "all stages on one host"
    if link:
        where += f", {say_rate(link)} and {say_seconds(wires.latency)} between hosts"
    whose = f"{ground.cores:g} core(s) of it for layers and messages" if ground.computes else "a device for each stage"
    return f"{where}, {whose}, {say_seconds(2 * wires.call + wires.item)} of a core a message"


def _cut(layout: Layout) -> str:
    """0-1 | 2, or how many stages in a row have how many layers."""
    groups = [spec.layers for spec in layout.stages]
    if len(groups) <= 4:
        return " | ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)
    return ", ".join(f"{len(list(run))} x {size}" for size, run in itertools.groupby(len(group) for group in groups))

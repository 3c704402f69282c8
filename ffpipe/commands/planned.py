"""The plan of a run as tables and lines: its memory, disk, network and time, on one number of stages or on several."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ffpipe.config.fields import override
from ffpipe.config.schema import Config, of_stage
from ffpipe.pipeline.job import Job, Layout
from ffpipe.planning.budget import within_budget
from ffpipe.planning.calibrate import Costs, measure_costs, measure_side_by_side
from ffpipe.planning.cost import largest_block_bytes
from ffpipe.planning.estimate import Estimate, estimate_layout
from ffpipe.planning.forecast import (
    Conditions,
    Forecast,
    costs_at,
    evaluated_examples,
    evaluation_seconds,
    forecast,
    link_costs,
)
from ffpipe.planning.memory import MemoryBreakdown
from ffpipe.planning.message_costs import kept_costs
from ffpipe.runs.calibrate import calibrate
from ffpipe.runs.controller import planned
from ffpipe.system.errors import UserError, escaped
from ffpipe.system.memory import host_cpus, refuse_beyond_host
from ffpipe.system.units import format_rate, format_seconds, format_size
from ffpipe.telemetry.report import format_layers

# Names the command, since `train --dry-run` comes here too and does not have this option.
GIVE_SPEED = "give a speed to ffpipe plan, as --flops 60TFLOPS"
# Options of how stages lie on hosts, by their names in the namespace.
OF_HOSTS = ("link", "latency", "stages_per_host", "cores")
# Columns that its tables need.
WIDE = 150


def show(config: Config, options: argparse.Namespace, may_import: dict[str, Any]) -> None:
    """Print the plan of a config. may_import: what of the user's code may be imported. Raises UserError."""
    stages: tuple[int, ...] = options.stages or ()
    flops: float | tuple[float, ...] | None = options.flops
    link: float | None = options.link
    cores = options.cores or host_cpus()
    _refuse(config, options)
    several = len(stages) > 1
    console = Console(width=max(Console().width, WIDE))
    budget = config.execution.memory_budget
    if several:
        # Each of them may need other choices to keep to a budget, or more of the object store than one stage does.
        config = override(config, {"execution.stages": 1, "execution.memory_budget": ""})
    # As many speeds as stages: they count more than the number in the recipe.
    elif one := stages[0] if stages else _speeds(options):
        config = override(config, {"execution.stages": one})
    job, estimate, notes = planned(config, **may_import)
    ray, process = job.config.execution.engine == "ray", estimate.stages[0].process
    _refuse_other_stages(options, len(estimate.layout.stages) if ray else 1)
    # There is no one layout to show of several numbers of stages.
    if not several:
        console.print(_table(estimate))
        # Not by the console, which breaks lines and takes brackets for markup.
        for line in (*_lines(job, estimate), *notes):
            print(line)
    costs = _timed(job) if flops is None else lambda stage, copies: costs_at(of_stage(flops, stage), job.network)
    origin = "steps measured here" if flops is None else "the speed that was given"
    if not ray:
        print(f"time, from {origin}: {_time(job, costs(0, 1))}")
        return
    # A speed that is given is that of a device of the stage's own.
    devices = job.config.execution.devices
    computes = flops is None and "cpu" in devices
    apart = frozenset(stage for stage, device in enumerate(devices) if computes and device != "cpu")
    messages = calibrate() if options.calibrate else kept_costs()
    links = link_costs(link, options.latency, messages)
    conditions = Conditions(costs, links, options.stages_per_host or int(bool(link)), cores, computes, apart=apart)
    # A budget may need another number than the one that was asked for.
    rows, lines = _rows(job, stages if several else (len(estimate.layout.stages),), budget, conditions, process)
    if not rows:
        raise UserError(lines[0])
    console.print(_table_of_forecasts(job, rows, link))
    for line in (*lines, *_left_out(job.config, cores, flops is None)):
        print(line)
    rests_on = f"{_words(conditions, link)}, {escaped(messages.origin)}"
    print(f"from {origin}, {rests_on}; time is with {_tests(job)}, snapshots are not counted")


def _refuse(config: Config, options: argparse.Namespace) -> None:
    execution, several = config.execution, options.stages and len(options.stages) > 1
    # Blocks that are trained end to end are one, whatever the recipe has for them.
    backprop = config.training.method == "backprop"
    ray = execution.engine == "ray" and not backprop
    whose = f"training.method {config.training.method!r}" if backprop else f"engine {execution.engine!r}"
    if options.calibrate and not ray:
        raise UserError(f"--calibrate measures messages between stages, which {whose} does not send")
    of_hosts = next((name for name in OF_HOSTS if getattr(options, name) is not None), "")
    if of_hosts and not ray:
        name = f"--{of_hosts.replace('_', '-')}"
        raise UserError(f"{name} is of hosts with several stages, but {whose} is one process: leave it out")
    if options.latency is not None and not options.link:
        raise UserError("--latency is that between hosts: give --link too")
    if options.flops is None and "cuda" in execution.devices and not torch.cuda.is_available():
        raise UserError(f"--device is cuda, but torch finds no GPU to measure on: {GIVE_SPEED}")
    if several and not ray:
        raise UserError(f"--stages has several numbers, but {whose} is one process")
    speeds = _speeds(options)
    if several and (listed := execution.listed or speeds):
        raise UserError(f"--stages has several numbers, but other options have values for {listed} stages each")
    wanted = options.stages[0] if options.stages else execution.listed or speeds
    if speeds and (not ray or speeds != wanted):
        processes = f"{wanted} stages" if ray else f"the one process of {whose}"
        raise UserError(f"--flops has {speeds} speeds for {processes}: give one speed, or one for each stage")


def _refuse_other_stages(options: argparse.Namespace, stages: int) -> None:
    """Refuse speeds of stages of which a budget needs another number. Raises UserError."""
    speeds = _speeds(options)
    if speeds and speeds != stages:
        raise UserError(
            f"--flops has {speeds} speeds, but the budget needs {stages} stages: give {stages} speeds, or one"
            if stages > 1
            else f"--flops has {speeds} speeds, but the budget needs one process: give one speed"
        )


def _speeds(options: argparse.Namespace) -> int:
    """Count the speeds in --flops; 0 where there is none, or one for all stages."""
    return len(options.flops) if isinstance(options.flops, tuple) else 0


def _rows(
    job: Job, counts: tuple[int, ...], budget: str, conditions: Conditions, process: int
) -> tuple[list[tuple[Forecast, Estimate]], list[str]]:
    """Work out what each number of stages would do, and take of memory; and lines on what a budget has chosen, or why
    some are not to be had. budget: to which several numbers are yet to be held, each by itself."""
    rows: list[tuple[Forecast, Estimate]] = []
    lines: list[str] = []
    if beyond := [str(count) for count in counts if count > job.layers]:
        lines.append(f"not {', '.join(beyond)} stages: there are {job.layers} layers, so give 1 to {job.layers}")
    for count in (count for count in counts if count <= job.layers):
        try:
            within, notes = (job, ()) if len(counts) == 1 else _held(job, count, budget, process)
            execution = within.config.execution
            if execution.engine != "ray":
                raise UserError(f"{notes[0]}; --stages {count} alone has its plan")
            expected = forecast(within, execution.stages if notes else count, conditions)
        except UserError as error:
            lines.append(f"not {count} stage(s): {error}")
        else:
            lines += [f"{count} stage(s): {note}" for note in notes]
            if expected.layout not in [other.layout for other, _ in rows]:
                rows.append((expected, estimate_layout(within, expected.layout, process)))
    return rows, lines


def _held(job: Job, stages: int, budget: str, process: int) -> tuple[Job, tuple[str, ...]]:
    """Hold a job on so many stages to the budget; returns it, and what was chosen. Raises UserError."""
    execution = replace(job.config.execution, stages=stages, memory_budget=budget)
    return within_budget(replace(job, config=replace(job.config, execution=execution)), process)


def _left_out(config: Config, cores: int, measured: bool) -> list[str]:
    """Name what of the config a forecast does not know. measured: whether layers are timed here."""
    execution, here = config.execution, host_cpus()
    found = []
    if len(set(execution.devices)) > 1:
        found.append(f"memory is that of stages on the first one's device, {execution.first_device}")
    if execution.cpus and measured:
        found.append("layers are timed on one thread a stage, whatever execution.cpus says")
    if execution.replicas != 1:
        found.append("replicas of a stage are forecast as on one host")
    if cores > here and measured:
        found.append(f"layers are timed on at most {here} cores at once, which is all that this host has")
    return [f"note: {line}" for line in found]


def _timed(job: Job) -> Callable[[int, int], Costs]:
    """Return the costs of layers as they are timed here, when they are asked for: on the device of a stage, as of so
    many stages."""
    # Rows for several numbers of stages ask for the same ones.
    on_device = cache(partial(_measured, job))
    return lambda stage, copies: on_device(of_stage(job.config.execution.device, stage), copies)


def _measured(job: Job, device: str, copies: int) -> Costs:
    """Time a step of each layer on a device; where stages have a core each, on so many at once."""
    execution = job.config.execution
    # On more threads than cores it would be timed how they take turns.
    copies = min(copies, host_cpus())
    refuse_beyond_host(copies * largest_block_bytes(job), "timing a layer here", GIVE_SPEED)
    if execution.engine == "ray" and device == "cpu":
        return measure_side_by_side(job.network, copies)
    return measure_costs(job.network, torch.device(device))


def _table(estimate: Estimate) -> Table:
    """Return a table with a row for each process, a column for each kind of bytes."""
    table = Table("layers", "process", "data", *MemoryBreakdown._fields, "mapped", "in all")
    for stage in estimate.stages:
        sizes = (stage.process, stage.data, *stage.breakdown, stage.mapped, stage.resident)
        table.add_row(format_layers(stage.layers), *map(format_size, sizes))
    return table


def _lines(job: Job, estimate: Estimate) -> list[str]:
    """Return the lines on what concerns no single stage."""
    layout, engine = estimate.layout, job.config.execution.engine
    inflight = "chapter" if engine == "layerwise" else "window"
    chosen = engine == "ray" and not (job.config.execution.chunk and job.config.execution.window)
    counts = layout.stages[0].replicas.counts
    replicas = f" of {', '.join(map(str, counts))} replica(s)" if max(counts) > 1 else ""
    lines = [
        f"engine {engine}, {len(layout.stages)} stage(s){replicas}, chunk {layout.plan.chunk}, "
        f"{inflight} {layout.window}{' before layers are timed: a run may choose others, as below' if chosen else ''}",
        f"largest process: {format_size(estimate.largest)}",
    ]
    if estimate.store:
        lines.append(f"object store, if one host has all stages: {format_size(estimate.store)}")
    if estimate.disk:
        lines.append(f"disk for parked stages and activations: {format_size(estimate.disk)}")
    kept = job.config.execution.keep_snapshots
    lines.append(f"disk for each snapshot: {format_size(estimate.snapshot)}; the newest {kept} are kept")
    return lines


def _time(job: Job, costs: Costs) -> str:
    """Describe the time of training in one process, where one layer is worked after the other."""
    step = sum(costs.layers) + costs.head
    if not step:
        return "not known, since these blocks have no matrix products: leave --flops out, and their steps are timed"
    rate = job.config.training.batch_size / step
    trained = f"{format_seconds(job.steps * step)} for {job.steps:,} steps ({rate:,.0f} examples/s)"
    return f"{trained}, and {format_seconds(evaluation_seconds(job, step))} for {_tests(job)}"


def _tests(job: Job) -> str:
    passes = job.network.rows_of_example
    return f"tests of {evaluated_examples(job):,} examples, {passes:,} forward pass{'es' if passes > 1 else ''} each"


def _table_of_forecasts(job: Job, rows: Sequence[tuple[Forecast, Estimate]], link: float | None) -> Table:
    """Return a table with a row for each number of stages. link: bytes a second, where stages are on several hosts."""
    head = ["stages", "layers of each", "chunk", "window", "examples/s", "speed-up", "efficiency", "time"]
    table = Table(*head, "largest stage", *(["out of a host"] if link else []), "bottleneck")
    for expected, estimate in rows:
        layout = expected.layout
        rate = job.config.training.batch_size / expected.steady_seconds
        times = expected.one_stage_seconds / expected.steady_seconds
        cells = [str(len(layout.stages)), _cut(layout), str(layout.plan.chunk), str(layout.window)]
        seconds = expected.seconds + evaluation_seconds(job, expected.alone_seconds)
        cells += [f"{rate:,.0f}", f"{times:.2f}", f"{expected.efficiency:.3f}"]
        cells += [format_seconds(seconds), format_size(estimate.largest)]
        cells += [f"{format_rate(expected.link_rate)} ({expected.link_rate / link:.0%})"] if link else []
        table.add_row(*cells, expected.bottleneck)
    return table


def _words(conditions: Conditions, link: float | None) -> str:
    """Describe what a forecast rests on. link: bytes a second of a host's network, if it has a part in it."""
    links = conditions.links
    where = f"{conditions.stages_per_host} stage(s) a host" if conditions.stages_per_host else "all stages on one host"
    if link:
        where += f", {format_rate(link)} and {format_seconds(links.latency)} between hosts"
    shared = f"{conditions.cores:g} core(s) of it for layers and messages"
    whose = shared if conditions.computes else "a device for each stage"
    if conditions.computes and conditions.apart:
        whose += f", a device of its own for stage {', '.join(map(str, sorted(conditions.apart)))}"
    return f"{where}, {whose}, {format_seconds(2 * links.call + links.item)} of a core a message"


def _cut(layout: Layout) -> str:
    """Spell a cut: 0-1 | 2, or how many stages in a row have how many layers."""
    groups = [spec.layers for spec in layout.stages]
    if len(groups) <= 4:
        return " | ".join(map(format_layers, groups))
    return ", ".join(f"{len(list(run))} x {size}" for size, run in itertools.groupby(len(group) for group in groups))

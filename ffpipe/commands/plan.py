"""`ffpipe plan`: what a run would take of memory, disk, network and time, on one number of stages or on several."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ffpipe.config.fields import override
from ffpipe.config.schema import Config
from ffpipe.system.errors import UserError
from ffpipe.system.memory import host_cpus, refuse_beyond_host
from ffpipe.system.units import parse_flops, parse_rate, parse_seconds

if TYPE_CHECKING:
    from ffpipe.pipeline.job import Job
    from ffpipe.planning.calibrate import Costs
    from ffpipe.planning.estimate import Estimate
    from ffpipe.planning.forecast import Ground, Outlook

# Columns that its tables need.
WIDE = 150
MOST_STAGES = 4096


@dataclass(frozen=True)
class Request:
    """Options of its own. stages: none where the config says how many."""

    stages: tuple[int, ...]
    link: float | None
    latency: float | None
    flops: float | None
    stages_per_host: int
    cores: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Beside those of the config."""
    group = parser.add_argument_group("the forecast (engine ray)")
    group.add_argument("--stages", default="", help="one number, or several: 1,2,4 or 1,2,4,...,128")
    group.add_argument("--link", default="", help="rate of each host's network, as 10Gbit; none: all on one host")
    group.add_argument("--latency", default="", help="between hosts, as 50us; none: 100us")
    group.add_argument("--flops", default="", help="speed of a stage's processor, as 60TFLOPS; none: measured here")
    group.add_argument("--stages-per-host", default="", help="none: 1 with --link, else all")
    group.add_argument("--cores", default="", help="of a host, for messages and for layers on CPUs; none: as here")


OPTIONS = ("--stages", "--link", "--latency", "--flops", "--stages-per-host", "--cores")


def request_of(options: argparse.Namespace) -> Request:
    """Raises UserError."""
    link = _parsed("--link", options.link, parse_rate)
    latency = _parsed("--latency", options.latency, parse_seconds)
    flops = _parsed("--flops", options.flops, parse_flops)
    per_host = _whole("--stages-per-host", options.stages_per_host) or (1 if link else 0)
    cores = _whole("--cores", options.cores) or host_cpus()
    if latency is not None and not link:
        raise UserError("--latency is that between hosts: give --link too")
    return Request(parse_stages(options.stages), link, latency, flops, per_host, cores)


def run(config: Config, request: Request, consent: dict[str, Any]) -> None:
    """Print the plan. consent: what of the user's code may be imported. Raises UserError."""
    from ffpipe.planning import tell
    from ffpipe.planning.forecast import costs_at
    from ffpipe.runs.controller import planned

    _refuse(config, request)
    several = len(request.stages) > 1
    console = Console(width=max(Console().width, WIDE))
    if request.stages:
        config = override(config, {"execution.stages": 0 if several else request.stages[0]})
    job, estimate, notes = planned(config, **consent)
    ray = job.config.execution.engine == "ray"
    if not (several and ray):
        console.print(tell.table_of(estimate))
        for line in (*tell.lines_of(job, estimate), *notes):
            print(line)
    known: dict[int, Costs] = {}

    def costs(copies: int) -> Costs:
        if request.flops is not None:
            return costs_at(request.flops, job.network)
        if copies not in known:
            known[copies] = _measured(job, copies)
        return known[copies]

    origin = "steps measured here" if request.flops is None else "the speed that was given"
    if not ray:
        print(f"time, from {origin}: {tell.time_of(job, costs(1))}")
        return
    ground = _ground(job, costs, request)
    rows, without = _rows(job, request.stages or (len(estimate.layout.stages),), ground, estimate.stages[0].process)
    if not rows:
        raise UserError(without[0])
    console.print(tell.table_of_outlooks(job, rows, request.link))
    for line in (*without, *_left_out(job.config, request)):
        print(line)
    print(f"from {origin}, {tell.words_of(ground, request.link)}; evaluations and snapshots are not counted")


def _refuse(config: Config, request: Request) -> None:
    """What cannot be planned."""
    import torch

    execution, several = config.execution, len(request.stages) > 1
    if request.flops is None and execution.first_device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but torch finds no GPU to measure on: give its speed, as --flops 60TFLOPS")
    if several and execution.engine != "ray":
        raise UserError(f"--stages has several numbers, but engine {execution.engine!r} is one process")
    if several and execution.listed:
        raise UserError(
            f"--stages has several numbers, but other options have values for {execution.listed} stages each"
        )


def _rows(
    job: Job, counts: tuple[int, ...], ground: Ground, process: int
) -> tuple[list[tuple[Outlook, Estimate]], list[str]]:
    """What each number of stages would do, and take of memory; and why others are not to be had."""
    from ffpipe.planning.estimate import estimate_layout
    from ffpipe.planning.forecast import forecast

    rows, without = [], []
    if beyond := [str(count) for count in counts if count > job.layers]:
        without.append(f"not {', '.join(beyond)} stages: there are {job.layers} layers, so give 1 to {job.layers}")
    for count in (count for count in counts if count <= job.layers):
        try:
            outlook = forecast(job, count, ground)
        except UserError as error:
            without.append(f"not {count} stage(s): {error}")
        else:
            rows.append((outlook, estimate_layout(job, outlook.layout, process)))
    return rows, without


def _left_out(config: Config, request: Request) -> list[str]:
    """What of the config a forecast does not know."""
    execution, cores = config.execution, host_cpus()
    found = []
    if isinstance(execution.device, tuple) and len(set(execution.device)) > 1:
        found.append(f"all stages are forecast as on the first one's device, {execution.first_device}")
    if execution.cpus and request.flops is None:
        found.append("layers are timed on one thread a stage, whatever execution.cpus says")
    if request.cores > cores and request.flops is None:
        found.append(f"layers are timed on at most {cores} cores at once, which is all that this host has")
    return [f"note: {line}" for line in found]


def _measured(job: Job, copies: int) -> Costs:
    """Of a step of each layer on the device of the first stage; where stages have a core each, on so many at once."""
    import torch

    from ffpipe.planning.calibrate import measure_costs, measure_side_by_side
    from ffpipe.planning.cost import largest_block_bytes

    execution = job.config.execution
    copies = min(copies, host_cpus())
    refuse_beyond_host(copies * largest_block_bytes(job), "timing a layer here", "give --flops instead of timing")
    if execution.engine == "ray" and execution.first_device == "cpu":
        return measure_side_by_side(job.network, copies)
    return measure_costs(job.network, torch.device(execution.first_device))


def _ground(job: Job, costs: Callable[[int], Costs], request: Request) -> Ground:
    from ffpipe.planning import forecast

    # A speed that is given is that of a device of the stage's own.
    computes = job.config.execution.first_device == "cpu" and request.flops is None
    wires = forecast.wires_of(request.link, request.latency)
    return forecast.Ground(costs, wires, request.stages_per_host, request.cores, computes)


def parse_stages(text: str) -> tuple[int, ...]:
    """Of "1,2,4,...,32": by equal factors or in equal steps, as the three numbers before the dots say.

    >>> parse_stages("1,2,4,...,16"), parse_stages("2,4,6,...,10"), parse_stages("")
    ((1, 2, 4, 8, 16), (2, 4, 6, 8, 10), ())

    Raises UserError.
    """
    found: list[int] = []
    parts = [part.strip() for part in text.split(",")] if text else []
    for index, part in enumerate(parts):
        if part in ("...", "…"):
            if index < 3 or index + 2 != len(parts):
                raise UserError(f"--stages is {text!r}: give three numbers before the dots and one after them")
            found += _between(found[-3], found[-2], found[-1], _whole("--stages", parts[-1]))
        elif count := _whole("--stages", part):
            found.append(count)
        else:
            raise UserError(f"--stages is {text!r}: give whole numbers from 1 on, as 1,2,4 or 1,2,4,...,128")
    return tuple(dict.fromkeys(found))


def _between(first: int, before: int, last: int, end: int) -> list[int]:
    """What comes after these two, up to the end: by a factor where `first` has it too, else in steps."""
    by_factor = last % before == 0 and before % first == 0 and last // before == before // first > 1
    factor, step = (last // before, 0) if by_factor else (1, max(1, last - before))
    found = []
    while (last := last * factor + step) < end:
        found.append(last)
    return found


def _whole(option: str, text: str) -> int:
    """0 where none is given."""
    if text and not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_STAGES):
        raise UserError(f"{option} has {text[:20]!r}: give a whole number from 1 to {MOST_STAGES}")
    return int(text or 0)


def _parsed(option: str, text: str, parse: Callable[[str], float]) -> float | None:
    """None where none is given."""
    if not text:
        return None
    try:
        value = parse(text)
    except ValueError as error:
        raise UserError(f"{option} is {error}") from None
    if not value > 0 and option != "--latency":
        raise UserError(f"{option} is {text!r}: give more than nothing")
    return value

"""What a run would do on so many stages: the engine's own cut, chunk and window, worked in simulated time.

    costs of layers ─► cut, chunk, window (job.py) ─► loads of the stages ─► simulate.py ─► rate, bottleneck

What it is given: seconds of each layer, measured here or worked out from a processor's speed; what messages cost; and
how stages share hosts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

from ffpipe.learn.blueprint import Blueprint
from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.schedule import Item, Predict, Train
from ffpipe.pipeline.stage import StageSpec
from ffpipe.planning.account import beside_bytes
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.cost import costs_of
from ffpipe.planning.layout import MEASURED_EDGES, Measured, make_layout
from ffpipe.planning.simulate import Load, Site, Timing, Wires, simulate

# What messages took on two cores of an AMD EPYC (family 26) with Ray 2.60, fitted to `scripts/scaling.py`.
ITEM_SECONDS = 0.5e-3
CALL_SECONDS = 0.7e-3
COPY_RATE = 1.0e9
# Beside that, an answer's way back to who waits for it, which no message of a run does.
ANSWER_SECONDS = 1.5e-3
# Between hosts of one rack.
LATENCY = 100e-6
# Of what a link carries, what Ray's transfers of arrays came to: 0.84 to 0.88 where they filled it (headers take 0.06).
PAYLOAD = 0.86
# Of a step with three roles, which makes five products of a minibatch with a weight matrix: neutral rows alone,
# forward; and positive and negative rows alone, forward and their gradient.
PREDICT_SHARE, PAIRS_SHARE = 1 / 5, 4 / 5
# Messages to simulate, in windows, until what follows is more of the same.
WINDOWS = 4
# What is named as the bottleneck is at work for this share of the time at least.
BUSY = 0.9


@dataclass(frozen=True)
class Ground:
    """What a forecast stands on. costs: of layers, by how many stages compute on one host. stages_per_host: 0 for all
    on one. cores: of a host. computes: whether layers take those (CPU), or have processors of their own (GPU). reads:
    whether stages read what they get."""

    costs: Callable[[int], Costs]
    wires: Wires
    stages_per_host: int
    cores: float
    computes: bool
    reads: bool = True

    def hosts(self, stages: int) -> tuple[int, ...]:
        """Of each of so many stages."""
        per_host = self.stages_per_host or stages
        return tuple(index // per_host for index in range(stages))

    def site(self, stages: int) -> Site:
        """Where so many stages are."""
        return Site(self.hosts(stages), self.cores, self.computes, self.reads)

    def costs_among(self, stages: int) -> Costs:
        """Of layers where there are so many stages."""
        return self.costs(max(1, min(self.stages_per_host or stages, stages, int(self.cores)) if self.computes else 1))


@dataclass(frozen=True)
class Outlook:
    """Of a run on so many stages. one_stage_seconds: of a minibatch through all layers, one after the other.
    step_seconds: of the slowest stage, alone. steady_seconds: of a minibatch in the full pipeline. seconds: of all
    steps, with filling and draining. link_rate: bytes a second out of the host that sends most."""

    layout: Layout
    one_stage_seconds: float
    step_seconds: float
    steady_seconds: float
    seconds: float
    link_rate: float
    bottleneck: str

    @property
    def stages(self) -> int:
        return len(self.layout.stages)

    @property
    def efficiency(self) -> float:
        """The full pipeline's rate as a share of the slowest stage's."""
        return self.step_seconds / self.steady_seconds


def costs_at(flops: float, network: Blueprint) -> Costs:
    """Seconds of each block and of the read-out on a processor of this speed: of their operations alone."""
    layers = tuple(cost.flops / flops for cost in costs_of(network))
    seen = sum(network.outlines[block].outputs.size for block in network.taps)
    return Costs(layers, 4.0 * network.training.batch_size * seen * network.takes.classes / flops)


def forecast(job: Job, stages: int, ground: Ground) -> Outlook:
    """Raises UserError where the job cannot be cut so."""
    job = replace(job, config=replace(job.config, execution=replace(job.config.execution, stages=stages)))
    hosts = ground.hosts(stages)
    trips = [message_seconds(ground.wires, job.minibatch_bytes, a != b) for a, b in pairwise(hosts)]
    message = statistics.median(trips[:MEASURED_EDGES]) if trips else 0.0
    return outlook(job, make_layout(job, stages, Measured([ground.costs_among(stages)] * stages, message)), ground)


def outlook(job: Job, layout: Layout, ground: Ground) -> Outlook:
    """Of a job that is cut already."""
    specs = layout.stages
    site = ground.site(len(specs))
    loads = [load_of(spec, specs, ground.costs_among(len(specs))) for spec in specs]
    plan = replace(layout.plan, evaluations={}, snapshot_steps=0)
    enough = WINDOWS * (layout.window + len(specs) * plan.chunk)
    items = list(takewhile(lambda item: not isinstance(item, Train) or item.first < enough, plan.items()))
    worked = [item for item in items if isinstance(item, (Train, Predict))]
    timing = simulate(worked, plan.weight, layout.window, loads, ground.wires, site)
    steps = sum(item.count for item in worked if isinstance(item, Train))
    steady = timing.steady_seconds()
    alone = [load.seconds(Train(0, 1, ahead=plan.lockstep)) for load in loads]
    link = max(timing.linked.values()) / steps / steady
    bottleneck = _bottleneck(job, layout, alone, timing, steady, steps, site, ground.wires)
    seconds = timing.seconds + (job.steps - steps) * steady
    one = ground.costs(1)
    one_stage = sum(one.layers) + one.head
    return Outlook(layout, one_stage, max(alone), steady, seconds, link, bottleneck)


def wires_of(link: float | None = None, latency: float | None = None) -> Wires:
    """What messages take on a host, and between hosts whose networks carry `link` bytes a second, raw."""
    payload = math.inf if link is None else link * PAYLOAD
    return Wires(ITEM_SECONDS, CALL_SECONDS, COPY_RATE, payload, LATENCY if latency is None else latency)


def message_seconds(wires: Wires, size: int, elsewhere: bool) -> float:
    """An array's way from one stage to the next and an answer's way back, as the engine measures it."""
    way = size / wires.copy + size / wires.link + 2 * wires.latency if elsewhere else 0.0
    return ANSWER_SECONDS + 2 * wires.call + size / wires.copy + way


def load_of(spec: StageSpec, specs: tuple[StageSpec, ...], costs: Costs) -> Load:
    """What this stage does and sends."""
    network, training = spec.network, spec.training
    each = sum(costs.layers[layer] for layer in spec.layers) + (costs.head if spec.is_last else 0.0)
    layout, routes = network.layout, spec.routes
    row = network.edges[spec.layers.stop].nbytes

    def pairs_alone(item: Train) -> bool:
        return item.lead(training.lookahead) is None

    def seconds(item: Item) -> float:
        if isinstance(item, Predict):
            return each * PREDICT_SHARE
        return each * item.count * (PAIRS_SHARE if pairs_alone(item) else 1.0) if isinstance(item, Train) else 0.0

    def parts(item: Item) -> dict[int, int]:
        rows, seen = 0, 0
        if isinstance(item, Predict):
            rows = seen = layout.batch
        elif isinstance(item, Train):
            rows = item.count * (layout.learning_rows if pairs_alone(item) else layout.rows)
            seen = 0 if pairs_alone(item) else item.count * layout.batch
        beside = {
            receiver: sum(beside_bytes(network, name, rows, seen) for name in routes.names(spec.index, receiver))
            for receiver in routes.receivers(spec.index)
        }
        return {to: size + (row * rows if to == spec.index + 1 else 0) for to, size in beside.items()}

    return Load(seconds, parts, routes.senders(spec.index))


def _bottleneck(
    job: Job,
    layout: Layout,
    alone: Sequence[float],
    timing: Timing,
    steady: float,
    steps: int,
    site: Site,
    wires: Wires,
) -> str:
    """What keeps the full pipeline from being faster, in words."""
    slowest = alone.index(max(alone))
    layers = layout.stages[slowest].layers
    if alone[slowest] >= BUSY * steady:
        named = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}"
        return f"stage {slowest} ({named})"
    of_links = {host: sent / wires.link / steps / steady for host, sent in timing.linked.items()}
    busiest = max(of_links, key=lambda host: of_links[host])
    if of_links[busiest] >= BUSY:
        return f"the network of host {busiest}"
    of_hosts = {host: work / site.cores / timing.seconds for host, work in timing.processors.items()}
    host = max(of_hosts, key=lambda each: of_hosts[each])
    if of_hosts[host] >= BUSY:
        return f"the processors of host {host}"
    if job.config.training.lookahead is not None and layout.window >= max(1, job.config.training.lookahead):
        return f"predictions on their way back (negative_lag {job.config.training.negative_lag})"
    return f"messages (window {layout.window})"

"""Forecast of a run on so many stages: the engine's own cut, chunk and window, worked in simulated time.

    costs of layers ─► cut, chunk, window (job.py) ─► loads of the stages ─► simulate.py ─► rate, bottleneck

What it is given: seconds of each layer, measured here or worked out from a processor's speed; what messages cost; and
how stages share hosts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from ffpipe.config.blocks import FF_DENSE
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.outline import Outline
from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.replicas import replicas_of
from ffpipe.pipeline.schedule import Item, Predict, Train
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.pipeline.window import TIMED_BYTES
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.cost import BlockCost, costs_of
from ffpipe.planning.dense_cost import products_of
from ffpipe.planning.layout import MEASURED_EDGES, Measured, make_layout, store_here
from ffpipe.planning.memory import NetworkSizes, beside_bytes, gradient_bytes
from ffpipe.planning.message_costs import FITTED, MessageCosts
from ffpipe.planning.simulate import HostLayout, LinkCosts, Simulation, StageLoad, Timing
from ffpipe.telemetry.report import format_layers

# Between hosts of one rack.
LATENCY = 100e-6
# The share of a link's rate that Ray's transfers of arrays came to: 0.84 to 0.88 where they filled it (headers: 0.06).
PAYLOAD = 0.86
# Shares of a step with three roles, which makes five products of a minibatch with a weight matrix: neutral rows alone,
# forward; and positive and negative rows alone, forward and their gradient.
PREDICT_SHARE, PAIRS_SHARE = 1 / 5, 4 / 5
# Seconds of a processor for a datagram to another replica and one from it (shared_sums.py): 0.1 ms each on two cores of
# an AMD EPYC (2026-11-29), 50 rounds among two and four processes.
DATAGRAM = 0.1e-3
# The share of a processor that a process takes beside its work: of eight actors on two cores of an AMD EPYC (family 25,
# 2026-11-30) each took 1.0 % with nothing to do and 1.7 % where it was asked for reports four times a second, and the
# driver and Ray's own processes took 0.4 % more for each.
IDLE = 0.02
# Messages to simulate, in windows, until what follows is more of the same.
WINDOWS = 4
# With more minibatches in flight than these, or than the run has, none waits for the window.
LARGEST_WINDOW = 10_000
# A resource is named as the bottleneck if it is at work for this share of the time at least.
BUSY = 0.9


@dataclass(frozen=True)
class Conditions:
    """Circumstances for which a run is forecast.

    costs: of layers, by the stage on whose device they are and how many stages compute on the cores of one host.
    stages_per_host: 0 for all on one. cores, computes, reads: as of HostLayout. apart: stages that have a device of
    their own all the same.
    """

    costs: Callable[[int, int], Costs]
    links: LinkCosts
    stages_per_host: int
    cores: float
    computes: bool
    reads: bool = True
    apart: frozenset[int] = frozenset()

    def host_layout(self, stages: int) -> HostLayout:
        """Return the places of so many stages."""
        per_host = self.stages_per_host or stages
        return HostLayout(tuple(index // per_host for index in range(stages)), self.cores, self.computes, self.reads)

    def costs_among(self, counts: Sequence[int]) -> list[Costs]:
        """Return the costs of layers on the device of each stage. counts: replicas of each."""
        on_host = Counter[int]()
        for stage, host in enumerate(self.host_layout(len(counts)).hosts):
            on_host[host] += counts[stage] * (stage not in self.apart)
        # More stages than cores take turns, which the simulation adds: layers themselves cost no more then.
        copies = min(max(on_host.values()), int(self.cores)) if self.computes else 1
        return [self.costs(stage, max(1, copies)) for stage in range(len(counts))]


@dataclass(frozen=True)
class Forecast:
    """A run on so many stages.

    one_stage_seconds: of a minibatch through all layers, one after the other on the fastest device. step_seconds: of
    the slowest stage, alone. alone_seconds: the same where one replica has all the work, as in an evaluation, and
    exchanges nothing. steady_seconds: of a minibatch in the full pipeline. seconds: of all steps, with filling and
    draining. link_rate: bytes a second out of the host that sends most. bottleneck: in words.
    """

    layout: Layout
    one_stage_seconds: float
    step_seconds: float
    alone_seconds: float
    steady_seconds: float
    seconds: float
    link_rate: float
    bottleneck: str

    @property
    def efficiency(self) -> float:
        """The full pipeline's rate as a share of the slowest stage's."""
        return self.step_seconds / self.steady_seconds


def costs_at(flops: float, network: Blueprint) -> Costs:
    """Work out seconds of each block and of the read-out on a processor of this speed: of their operations alone."""
    layers, after = zip(*((cost.flops / flops, cost.after / flops) for cost in costs_of(network)), strict=True)
    seen = sum(network.outlines[block].outputs.size for block in network.taps)
    # Two products: no gradient goes from the read-out to a block.
    return Costs(layers, 4.0 * network.training.batch_size * seen * network.takes.classes / flops, after)


def evaluated_examples(job: Job) -> int:
    """Count the examples of all evaluations of a run, each as often as it is evaluated."""
    # The last is at the end of the run, whatever the interval.
    validations = 1 + (job.config.training.epochs - 1) // (job.config.execution.evaluate_every or math.inf)
    tested = job.tested
    return int(validations) * (tested["train"] + tested["validation"]) + tested["test"]


def evaluation_seconds(job: Job, step_seconds: float) -> float:
    """Work out seconds of all evaluations, which pass forward alone. step_seconds: of a minibatch, in training."""
    passes = evaluated_examples(job) * job.network.rows_of_example
    return passes * step_seconds * _forward_share(job.network)


def _forward_share(network: Blueprint) -> float:
    """Return the operations of a row that only passes, as a share of those of a step."""
    training, layout, costs = network.training, network.layout, costs_of(network)
    # Each row that is learned from has as many operations for the gradient of the weights, and for that of the input.
    by_autograd = layout.rows + 2 * layout.learning_rows

    def forward(cost: BlockCost, outline: Outline) -> float:
        if outline.name == FF_DENSE:
            return cost.flops / products_of(training, layout)
        # After the forward pass of the last part of a minibatch a result leaves, in most blocks.
        passing = cost.flops - training.accumulation * cost.after
        return passing / layout.rows if cost.after else cost.flops / by_autograd

    whole = sum(cost.flops for cost in costs)
    return sum(map(forward, costs, network.outlines)) / whole if whole else 1 / by_autograd


def forecast(job: Job, stages: int, conditions: Conditions) -> Forecast:
    """Cut the job into so many stages and simulate its first items. Raises UserError where it cannot be cut so."""
    job = replace(job, config=replace(job.config, execution=replace(job.config.execution, stages=stages)))
    counts = replicas_of(job.config.execution, stages)
    host_layout, costs, links = conditions.host_layout(stages), conditions.costs_among(counts), conditions.links
    trips = [_message_seconds(links, a != b) for a, b in pairwise(host_layout.hosts)]
    # The engine times no more of them (engines/ray/engine.py): the forecast is to choose the chunk that it would.
    message = statistics.median(trips[:MEASURED_EDGES]) if trips else 0.0
    layout = make_layout(job, stages, Measured(costs, message), store_here(job, stages), counts=counts)
    loads = loads_of(layout, costs, conditions)
    # Without evaluations, whose time is worked out apart and added, and without snapshots, which do not count.
    plan = replace(layout.plan, evaluations={}, snapshot_steps=0)
    steps = WINDOWS * (min(layout.window, job.steps, LARGEST_WINDOW) + stages * plan.chunk)
    steps += -steps % plan.chunk

    def timing_of(steps: int) -> Timing:
        return simulated(replace(layout, plan=replace(plan, steps=steps)), loads, links, host_layout)

    # The rate is that of a full pipeline, though the run itself may be too short to fill one.
    timing = timing_of(steps)
    steady = timing.steady_seconds()
    seconds = timing.seconds + (job.steps - steps) * steady if job.steps > steps else timing_of(job.steps).seconds
    alone = [load.seconds(Train(0, 1, ahead=plan.lockstep)) for load in loads]
    alone_on_one = (conditions.costs(stage, 1) for stage in range(stages))
    return Forecast(
        layout,
        one_stage_seconds=min(sum(each.layers) + each.head for each in alone_on_one),
        step_seconds=max(alone),
        alone_seconds=max(_work_of(spec, costs[spec.index]) for spec in layout.stages),
        steady_seconds=steady,
        seconds=seconds,
        link_rate=max(timing.linked.values()) / steps / steady,
        bottleneck=_bottleneck(job, layout, alone, timing, steps, conditions),
    )


def simulated(layout: Layout, loads: Sequence[StageLoad], links: LinkCosts, host_layout: HostLayout) -> Timing:
    """Simulate the training of a whole plan, message by message, without evaluations and snapshots."""
    items = [item for item in layout.plan.items() if isinstance(item, (Train, Predict))]
    return Simulation(items, layout.plan.weight, layout.window, loads, links, host_layout).run()


def link_costs(link: float | None = None, latency: float | None = None, costs: MessageCosts = FITTED) -> LinkCosts:
    """Return the messages on a host, and between hosts whose networks carry `link` bytes a second, raw."""
    payload = math.inf if link is None else link * PAYLOAD
    between = LATENCY if latency is None else latency
    return LinkCosts(costs.item, costs.call, costs.copy, payload, between, costs.answer, IDLE)


def _message_seconds(links: LinkCosts, elsewhere: bool) -> float:
    """Return the seconds of a small message's way to the next stage and of an answer's way back, as the engine measures
    it."""
    way = TIMED_BYTES / links.copy + TIMED_BYTES / links.link + 2 * links.latency if elsewhere else 0.0
    return links.answer + 2 * links.call + TIMED_BYTES / links.copy + way


def loads_of(layout: Layout, costs: Sequence[Costs], conditions: Conditions) -> list[StageLoad]:
    """Work out what each stage does and sends. costs: of layers, on the device of each."""
    return [
        replace(
            load_of(spec, costs[spec.index], conditions.links, layout.leaves_early),
            apart=spec.index in conditions.apart,
        )
        for spec in layout.stages
    ]


def load_of(spec: StageSpec, costs: Costs, links: LinkCosts | None = None, early: bool = False) -> StageLoad:
    """Work out what this stage does and sends. Each of its replicas does a share, and exchanges sums by these links.
    early: results may leave while its last block still learns."""
    network, training = spec.network, spec.training
    replicas, last = spec.replicas.counts[spec.index], spec.layers[-1]
    exchanged = exchange_seconds(spec, spec.layers, links) if links is not None else 0.0
    each = _work_of(spec, costs) / replicas + exchanged
    # Shards are worked one after the other: the result leaves within the last one.
    rest = costs.after[last] / training.shards if early and costs.after and not spec.is_last else 0.0
    rest += exchange_seconds(spec, [last], links) if rest and links is not None else 0.0
    layout, routes = network.layout, spec.routes
    row = network.edges[spec.layers.stop].nbytes

    def pairs_alone(item: Train) -> bool:
        return item.lead(training.lookahead) is None

    def seconds(item: Item) -> float:
        if isinstance(item, Predict):
            return each * PREDICT_SHARE
        return each * item.count * (PAIRS_SHARE if pairs_alone(item) else 1.0) if isinstance(item, Train) else 0.0

    def after(item: Item) -> float:
        # The last minibatch of an item alone leaves early, unless neutral rows come behind it (stage.py).
        return rest if isinstance(item, Train) and not item.ahead else 0.0

    # A run has thousands of items, which are of few sizes.
    @cache
    def sent(rows: int, seen: int) -> dict[int, int]:
        beside = {
            receiver: sum(beside_bytes(network, name, rows, seen) for name in routes.names(spec.index, receiver))
            for receiver in routes.receivers(spec.index)
        }
        return {to: size + (row * rows if to == spec.index + 1 else 0) for to, size in beside.items()}

    def parts(item: Item) -> dict[int, int]:
        rows = seen = layout.batch if isinstance(item, Predict) else 0
        if isinstance(item, Train):
            rows = item.count * (layout.learning_rows if pairs_alone(item) else layout.rows)
            seen = 0 if pairs_alone(item) else item.count * layout.batch
        return sent(rows, seen)

    return StageLoad(seconds, parts, routes.senders(spec.index), after=after, replicas=replicas)


def _work_of(spec: StageSpec, costs: Costs) -> float:
    """Add up seconds of a minibatch in all blocks of a stage, and in the read-out at the end."""
    return sum(costs.layers[layer] for layer in spec.layers) + (costs.head if spec.is_last else 0.0)


def exchange_seconds(spec: StageSpec, layers: Sequence[int], links: LinkCosts) -> float:
    """Work out seconds in which a replica exchanges the gradients of these blocks for a minibatch: for each update of a
    block it writes its own, and is told of and reads those of the others, all of which are on one host."""
    replicas = spec.replicas.counts[spec.index]
    if replicas == 1:
        return 0.0
    of, others = NetworkSizes(spec.network, 1), replicas - 1
    copied = sum(gradient_bytes(of, range(layer, layer + 1)) for layer in layers) * replicas / links.copy
    return (copied + len(layers) * others * DATAGRAM) * spec.training.updates


def _bottleneck(
    job: Job, layout: Layout, alone: list[float], timing: Timing, steps: int, conditions: Conditions
) -> str:
    """Name what keeps the full pipeline from being faster. alone: seconds of each stage for a minibatch, by itself."""
    steady = timing.steady_seconds()
    # First, since nothing else holds up a stage that hardly ever waits, however busy it is.
    slowest = alone.index(max(alone))
    if alone[slowest] >= BUSY * steady:
        spec = layout.stages[slowest]
        where = f"stage {slowest} (layer{'s' if len(spec.layers) > 1 else ''} {format_layers(spec.layers)})"
        exchanges = exchange_seconds(spec, spec.layers, conditions.links)
        return f"what replicas of {where} exchange" if exchanges > alone[slowest] / 2 else where
    host, sent = max(timing.linked.items(), key=lambda each: each[1])
    if sent / conditions.links.link / steps / steady >= BUSY:
        return f"the network of host {host}"
    host, worked = max(timing.processors.items(), key=lambda each: each[1])
    if worked / timing.seconds >= BUSY:
        return f"the processors of host {host}"
    training = job.config.training
    if training.most_in_flight is not None and layout.window >= training.most_in_flight:
        return f"predictions on their way back (negative_lag {training.negative_lag})"
    return f"messages (window {layout.window})"

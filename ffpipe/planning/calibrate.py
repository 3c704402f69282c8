"""Costs of a stage's work on this device: measured in a moment, so that cuts and chunks fit the machine.

The figures decide where the network is cut and how much goes into a message; neither changes a bit of it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ffpipe.config.schema import Training
from ffpipe.learn.blame import blaming
from ffpipe.learn.block import Block, Step, nothing
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.state_tensors import refuse_changed
from ffpipe.learn.workspace import Workspace
from ffpipe.planning.alike import of_each_block

STEPS = 3
# For a block that takes as long, fewer steps are timed: a stage has to answer before a run begins.
ENOUGH_SECONDS = 3.0
# Costs of larger minibatches are in proportion; to measure them in full could take minutes.
LARGEST_BATCH = 512


@dataclass(frozen=True)
class Costs:
    """Seconds a minibatch on one device: of each layer's step and of the head's. after: of each layer's step, those
    after what it hands on may leave; none given: that is at its end."""

    layers: tuple[float, ...]
    head: float
    after: tuple[float, ...] = ()


class Learn(Protocol):
    """A step of a block, by its number. leave: as of Step."""

    def __call__(self, number: int, leave: Callable[[], object] = nothing) -> None: ...


def learning(block: Block, network: Blueprint, device: torch.device) -> Learn:
    """Prepare the step of a block, by its number: on rows of ones, as many as in a run, and where there are no
    negatives labels of every class. A step raises UserError where the block writes into the rows or the labels that it
    gets."""
    layout, shape = network.layout, network.labels.shape
    classes = torch.arange(layout.batch, device=device).remainder(network.takes.classes)
    classes = classes.view(-1, *(1 for _ in shape)).expand(layout.batch, *shape).contiguous()
    labels = None if network.training.contrasts else classes
    kept_specs = [network.outlines[network.kept[name]].outputs for name in block.use]
    x, out, *kept = (
        torch.ones(layout.rows, *spec.shape, dtype=spec.dtype, device=device)
        for spec in (block.inputs, block.outputs, *kept_specs)
    )

    taken = [x, *kept] if labels is None else [x, labels, *kept]

    @torch.no_grad()
    def step(number: int, leave: Callable[[], object] = nothing) -> None:
        versions = [each._version for each in taken]
        with blaming(network, block.index, "when its step was timed"):
            block.learn(x, layout, labels, Step(number, leave=leave), out, kept)
        # Here, since a block that computes its own update is watched in no step of a run.
        refuse_changed(taken, versions, str(network.outlines[block.index]))

    return step


def median_seconds(step: Callable[[], object], device: torch.device) -> float:
    """Time a few steps, after one that is not counted."""
    times = []
    # The first one makes buffers and the state of an optimiser, and on several threads tries products (trials.py).
    for _ in range(1 + STEPS):
        started = _now(device)
        step()
        times.append(_now(device) - started)
        if len(times) > 1 and sum(times) > ENOUGH_SECONDS:
            break
    return statistics.median(times[1:])


def _now(device: torch.device) -> float:
    """Return the time when the device has done what it was asked for: a call returns before a GPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_costs(
    network: Blueprint,
    device: torch.device,
    seconds_of: Callable[[Callable[[], object], torch.device], float] = median_seconds,
) -> Costs:
    """Time a few steps of each block that is not like another one."""
    training = _timed(network.training)
    scale = network.training.batch_size / training.batch_size
    # After a result leaves there is the work on the last part alone, of however many there are.
    fewer = training.accumulation / network.training.accumulation
    network = replace(network, training=training)

    def block_seconds(block: Block) -> tuple[float, float]:
        learn, shares = learning(block, network, device), list[float]()

        def step() -> None:
            started, left = _now(device), list[float]()
            learn(0, lambda: left.append(_now(device)))
            ended = _now(device)
            # A block that does not call it hands on at its end; of a user's own that calls it twice, the first counts.
            shares.append((ended - left[0]) / (ended - started) if left else 0.0)

        seconds = scale * seconds_of(step, device)
        # Without the first step, as `seconds` are.
        return seconds, seconds * fewer * statistics.median(shares[1:] or shares)

    layers, after = zip(*of_each_block(network, device, block_seconds), strict=True)
    head = scale * seconds_of(_head_step(network, device), device) if network.has_head else 0.0
    return Costs(layers, head, after)


def _timed(training: Training) -> Training:
    """Return the same with as much of a minibatch as is timed: fewer of its parts, which are cut where one is too large
    itself."""
    part = training.batch_size // training.accumulation
    # Not all parts, each cut: batch normalisation refuses one example, and small parts take longer in proportion.
    parts = min(training.accumulation, max(1, LARGEST_BATCH // part))
    return replace(training, batch_size=parts * min(part, LARGEST_BATCH), accumulation=parts)


def measure_side_by_side(network: Blueprint, copies: int) -> Costs:
    """Measure the same on so many cores of this host at once, a thread each: they share caches, memory and clock."""
    threads = torch.get_num_threads()
    together = threading.Barrier(copies)

    def measure() -> Costs:
        torch.set_num_threads(1)
        together.wait()
        return measure_costs(network, torch.device("cpu"))

    try:
        with ThreadPoolExecutor(copies) as pool:
            # All are begun before the first is waited for: none passes the barrier before the last has come to it.
            made = [future.result() for future in [pool.submit(measure) for _ in range(copies)]]
    finally:
        torch.set_num_threads(threads)
    return _median(made)


def pooled(costs: Sequence[Costs], processors: Sequence[Hashable]) -> list[Costs]:
    """Return the median of what those found that share a processor, for each of them: that one had less of it while it
    was measured says nothing of the run. processors: what each was measured on."""
    return [_median([costs[i] for i, other in enumerate(processors) if other == own]) for own in processors]


def _median(made: Sequence[Costs]) -> Costs:
    def medians(found: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(map(statistics.median, zip(*found, strict=True)))

    head = statistics.median(costs.head for costs in made)
    return Costs(medians(costs.layers for costs in made), head, medians(costs.after for costs in made))


def _head_step(network: Blueprint, device: torch.device) -> Callable[[], object]:
    batch, head = network.training.batch_size, network.make_head(Workspace(device))
    outputs = [network.outlines[i].outputs for i in network.taps]
    seen = [torch.ones(batch, each.size, dtype=each.dtype, device=device) for each in outputs]
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    return torch.no_grad()(lambda: head.step(0, seen, labels, 1.0))

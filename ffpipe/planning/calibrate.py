"""What a stage's work costs on this device: measured in a moment, so that cuts and chunks fit the machine.

The figures decide where the network is cut and how much goes into a message; neither changes a bit of it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.readout import Head
from ffpipe.learn.spec import RowLayout
from ffpipe.learn.workspace import Workspace

STEPS = 3
# Costs of larger minibatches are in proportion; to measure them in full could take minutes.
LARGEST_BATCH = 512


@dataclass(frozen=True)
class Costs:
    """Seconds a minibatch on one device: of each layer's step and of the head's."""

    layers: tuple[float, ...]
    head: float


class Sample(NamedTuple):
    """Arguments for a step of a block, with the sizes that they have in a run."""

    x: Tensor
    layout: RowLayout
    labels: Tensor
    out: Tensor
    kept: list[Tensor]


def sample_of(block: Block, network: Blueprint, device: torch.device) -> Sample:
    """Rows of ones, and labels of every class in turn."""
    layout, classes = network.layout, network.takes.classes
    labels = torch.arange(layout.batch, device=device).remainder(classes)
    labels = labels.view(-1, *(1 for _ in network.labels.shape)).expand(layout.batch, *network.labels.shape)
    kept = [network.outlines[network.kept[name]].outputs for name in block.use]
    x, out, *others = (
        torch.ones(layout.rows, *spec.shape, dtype=spec.dtype, device=device)
        for spec in (block.inputs, block.outputs, *kept)
    )
    return Sample(x, layout, labels.contiguous(), out, others)


def measure_costs(network: Blueprint, device: torch.device) -> Costs:
    """Time a few steps of each block that is not like another one."""
    batch = min(network.training.batch_size, LARGEST_BATCH)
    scale = network.training.batch_size / batch
    network = replace(network, training=replace(network.training, batch_size=batch))
    seconds: dict[object, float] = {}
    layers = []
    for outline in network.outlines:
        block = network.make(outline.index, Workspace(device))
        key = (outline.inputs, outline.outputs, outline.name, str(block), *_shapes(block))
        if key not in seconds:
            seconds[key] = scale * _block_seconds(network, block, device)
        layers.append(seconds[key])
    return Costs(tuple(layers), scale * _head_seconds(network, device) if network.has_head else 0.0)


def measure_side_by_side(network: Blueprint, copies: int) -> Costs:
    """The same on so many cores of this host at once, each on one thread: they share caches, memory and clock."""
    threads = torch.get_num_threads()
    together = threading.Barrier(copies)

    def measure() -> Costs:
        torch.set_num_threads(1)
        together.wait()
        return measure_costs(network, torch.device("cpu"))

    try:
        with ThreadPoolExecutor(copies) as pool:
            made = [future.result() for future in [pool.submit(measure) for _ in range(copies)]]
    finally:
        torch.set_num_threads(threads)
    return _median(made)


def pooled(costs: Sequence[Costs], processors: Sequence[Hashable]) -> list[Costs]:
    """The median of what those found that share a processor, for each of them: that one had less of it while it was
    measured says nothing of the run. processors: what each was measured on."""
    return [_median([costs[i] for i, other in enumerate(processors) if other == own]) for own in processors]


def _median(made: Sequence[Costs]) -> Costs:
    layers = zip(*(costs.layers for costs in made), strict=True)
    return Costs(tuple(map(statistics.median, layers)), statistics.median(costs.head for costs in made))


def _shapes(block: Block) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in block.weights().values()]


def _block_seconds(network: Blueprint, block: Block, device: torch.device) -> float:
    x, layout, labels, out, kept = sample_of(block, network, device)

    @torch.no_grad()
    def step() -> None:
        block.learn(x, layout, labels, Step(0), out, kept)

    return _median_seconds(step, device)


def _head_seconds(network: Blueprint, device: torch.device) -> float:
    batch, outlines = network.training.batch_size, network.outlines
    head = Head(
        network.training, {i: outlines[i].outputs.size for i in network.taps}, network.takes.classes, Workspace(device)
    )
    seen = [torch.ones(batch, outlines[i].outputs.size, dtype=outlines[i].outputs.dtype, device=device)
            for i in network.taps]  # fmt: skip
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    @torch.no_grad()
    def step() -> None:
        head.step(0, seen, labels, 1.0)

    return _median_seconds(step, device)


def _median_seconds(step: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(1 + STEPS):
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

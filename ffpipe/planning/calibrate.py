"""What a stage's work costs on this device: measured in a moment, so that cuts and chunks fit the machine.

The figures decide where the network is cut and how much goes into a message; neither changes a bit of it.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from ffpipe.config.schema import Training
from ffpipe.learn.dense import Layer
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Workspace

STEPS = 3
# Costs of larger minibatches are in proportion; to measure them in full could take minutes.
LARGEST_BATCH = 512


@dataclass(frozen=True)
class Costs:
    """Seconds a minibatch on one device: of each layer's step and of the head's."""

    layers: tuple[float, ...]
    head: float


def measure_costs(training: Training, width: int, classes: int, device: torch.device) -> Costs:
    """Time a few steps of each layer of another shape. width: features of an input row with its label."""
    batch = min(training.batch_size, LARGEST_BATCH)
    scale = training.batch_size / batch
    training = replace(training, batch_size=batch)
    widths = (width, *training.dims[1:])
    shapes = list(itertools.pairwise(widths))
    seconds = {shape: _layer_seconds(training, *shape, device) for shape in set(shapes)}
    head = _head_seconds(training, classes, device) if training.head else 0.0
    return Costs(tuple(seconds[shape] * scale for shape in shapes), head * scale)


def measure_side_by_side(training: Training, width: int, classes: int, copies: int) -> Costs:
    """The same on so many cores of this host at once, each on one thread: they share caches, memory and clock."""
    threads = torch.get_num_threads()
    together = threading.Barrier(copies)

    def measure() -> Costs:
        torch.set_num_threads(1)
        together.wait()
        return measure_costs(training, width, classes, torch.device("cpu"))

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


def _layer_seconds(training: Training, fan_in: int, width: int, device: torch.device) -> float:
    layer = Layer(0, fan_in, width, replace(training, local_steps=1), Workspace(device))
    rows = torch.ones(
        training.roles * training.batch_size, fan_in, dtype=PRECISIONS[training.precision].products, device=device
    )
    out = rows.new_empty(len(rows), width)
    return training.local_steps * _median_seconds(lambda: layer.step(0, rows, training.batch_size, 1.0, out), device)


def _head_seconds(training: Training, classes: int, device: torch.device) -> float:
    head = Head(training, classes, Workspace(device))
    dtype = PRECISIONS[training.precision].products
    seen = [torch.ones(training.batch_size, training.dims[i + 1], dtype=dtype, device=device) for i in head.layers]
    labels = torch.zeros(training.batch_size, dtype=torch.int64, device=device)
    return _median_seconds(lambda: head.step(0, seen, labels, 1.0), device)


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

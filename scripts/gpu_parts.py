"""Parts of gpu_check.py that look at single blocks: how near a device comes to the CPU, and what a step takes on it.

A figure is the median of the second half of the rounds, each between two waits for the device.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ffpipe import BlockConfig, Config, Optimizer, recipe
from ffpipe.learn.block import Block, Step
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import Job, make_job
from ffpipe.system.errors import one_line

import torch  # isort: skip - after ffpipe, which sets what torch reads from the environment
from bench_block import bare

ROUNDS = 30
CPU = torch.device("cpu")
WIDTH, ROWS = 2000, 300  # of the dense layer: 100 examples in three roles
FORMATS = ("float32", "tf32", "bfloat16")


def network_of(config: Config, **fields: Any) -> Job:
    """Make the network of a job of this config with other training fields."""
    return make_job(replace(config, training=replace(config.training, **fields)))


def convolutions(channels: int, precision: str) -> Job:
    """Make two blocks of a convolution with a class head, on rows of 8 x 8."""
    blocks = tuple(BlockConfig(kind="conv", options={"channels": channels}) for _ in range(2))
    return network_of(
        recipe("digits"), batch_size=128, precision=precision, blocks=blocks, negatives="none", head=False,
        labels="none", optimizer=Optimizer(kind="Adam"),
    )  # fmt: skip


class Rows:
    """The arguments of one block's step: the same numbers on every device."""

    def __init__(self, job: Job, index: int, device: torch.device) -> None:
        outline, self.layout = job.network.outlines[index], job.network.layout
        chance = torch.Generator().manual_seed(1)
        x = torch.randn(self.layout.rows, *outline.inputs.shape, generator=chance)
        self.x = x.to(device, outline.inputs.dtype)
        self.out = torch.empty(self.layout.rows, *outline.outputs.shape, dtype=outline.outputs.dtype, device=device)
        self.labels = torch.arange(self.layout.batch, device=device).remainder(10)

    def learn(self, block: Block, step: int) -> None:
        """Make one update of the block from these rows."""
        with torch.no_grad():
            block.learn(self.x, self.layout, self.labels, Step(step), self.out)


def distance_from_cpu(job: Job, index: int, device: torch.device, steps: int = 3) -> dict[str, float]:
    """Measure how far outputs and weights are from the CPU's after some steps: norm of the difference over the norm."""
    made = []
    for place in (CPU, device):
        rows, block = Rows(job, index, place), job.network.make(index, Workspace(place))
        for step in range(steps):
            rows.learn(block, step)
        made.append(
            (rows.out.float().cpu(), {name: weight.detach().float().cpu() for name, weight in block.weights().items()})
        )
    (out, weights), (other, others) = made
    return {
        "outputs": _apart(other, out),
        "weights": max(_apart(others[name], weight) for name, weight in weights.items()),
    }


def _apart(tensor: torch.Tensor, reference: torch.Tensor) -> float:
    return float((tensor - reference).norm() / reference.norm().clamp_min(1e-12))


def seconds(run: Callable[[int], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Measure the median seconds of one call, which gets the number of the round."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for number in range(rounds):
        wait()
        begun = time.perf_counter()
        run(number)
        wait()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[rounds // 2 :])


@contextmanager
def format_of_products(name: str) -> Iterator[None]:
    """Have products and convolutions of float32 made in TF32 where that is asked for, else in float32: torch makes
    convolutions in TF32 unless it is told not to."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def dense_times(format_: str, device: torch.device) -> dict[str, float | str]:
    """Measure the milliseconds of a step of a dense layer, of its two products alone, and of the step as a CUDA
    graph."""
    precision = "bfloat16" if format_ == "bfloat16" else "float32"
    job = network_of(recipe("digits"), dims=(64, WIDTH, WIDTH), batch_size=ROWS // 3, precision=precision)
    rows, block = Rows(job, 1, device), job.network.make(1, Workspace(device))
    dtype = torch.bfloat16 if format_ == "bfloat16" else torch.float32
    weight = torch.randn(WIDTH, WIDTH, device=device).to(dtype)
    x, average = rows.x.to(dtype), torch.zeros(WIDTH, WIDTH, device=device).to(dtype)
    learning = rows.layout.learning_rows

    def products(_: int) -> None:
        y = x @ weight
        average.addmm_(x[:learning].t(), y[:learning], beta=0.9, alpha=0.001)

    with format_of_products(format_):
        found: dict[str, float | str] = {
            "step": 1e3 * seconds(lambda step: rows.learn(block, step), device),
            "products": 1e3 * seconds(products, device),
        }
        found["step as a graph"] = _as_a_graph(lambda: rows.learn(block, 1), device)
    return found


def conv_times(channels: int, format_: str, device: torch.device) -> dict[str, float | str]:
    """Measure the milliseconds of a step of a convolutional block, of the same module in a bare loop, and of both as
    CUDA graphs."""
    job = convolutions(channels, "bfloat16" if format_ == "bfloat16" else "float32")
    rows, block = Rows(job, 1, device), job.network.make(1, Workspace(device))
    assert isinstance(block, LocalBlock)
    plain = bare(block, rows.x, rows.labels, torch.bfloat16 if format_ == "bfloat16" else torch.float32)
    captured = job.network.make(1, Workspace(device))
    assert isinstance(captured, LocalBlock)
    with format_of_products(format_):
        found: dict[str, float | str] = {
            "step": 1e3 * seconds(lambda step: rows.learn(block, step), device),
            "bare loop": 1e3 * seconds(lambda _: plain(), device),
        }
        found["step as a graph"] = _as_a_graph(lambda: rows.learn(captured, 1), device, captured)
        found["bare loop as a graph"] = _as_a_graph(plain, device)
    return found


def count_on_device(block: LocalBlock) -> None:
    """Have the optimiser of a block that has made no step count its steps on the device, as a graph needs it; only
    torch's optimisers for GPUs do that."""
    assert block.optimizer is not None
    for group in block.optimizer._optimizer.param_groups:
        group["capturable"] = True


def _as_a_graph(run: Callable[[], object], device: torch.device, block: LocalBlock | None = None) -> float | str:
    """Measure the milliseconds of a replay, or say why there is none. block: what runs, where it is one by autograd."""
    if device.type != "cuda":
        return "no GPU"
    try:
        if block is not None:
            count_on_device(block)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what a graph needs before it is captured
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        return f"not captured: {one_line(error)[:120]}"
    return 1e3 * seconds(lambda _: graph.replay(), device)

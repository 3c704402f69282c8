"""One process of a contender that is not ffpipe: backpropagation in one process, by data parallelism, or through a
pipeline of torch.distributed. Started by bench_peers.py; prints one line of JSON.

    python scripts/peer.py '{"way": "gpipe", "world": 2, ...}' RANK
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ffpipe  # isort: skip - sets what torch reads from the environment
import torch
import torch.distributed as dist
from peer_networks import WARM_UP, config_of
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from ffpipe.learn.block import Block
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.packet import LABELS, Tensors, X
from ffpipe.pipeline.partition import partition
from ffpipe.pipeline.schedule import Train
from ffpipe.planning.cost import costs_of
from ffpipe.system.memory import keep_freed

CPU = torch.device("cpu")
PIPED = ("gpipe", "1f1b", "interleaved")
# A network that only takes time: numbers of a row, and classes.
WIDTH, CLASSES = 1000, 10


@dataclass(frozen=True)
class Asked:
    """The request of bench_peers.py. seconds: forward and backward of a minibatch in each stage that only takes time;
    empty where `network` is computed. place: a file in which the processes meet."""

    way: str
    world: int
    place: str
    steps: int
    microbatches: int = 1
    threads: int = 1
    network: str = ""
    batch: int = 100
    seconds: tuple[float, ...] = ()


class _Takes(torch.autograd.Function):
    """A function that hands rows on after a set time, and gradients after another."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        time.sleep(ctx.seconds)
        return gradient, torch.zeros(1), None, None


class Takes(nn.Module):
    """A part of a network that takes a set time and no processor."""

    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.weight, self.seconds = nn.Parameter(torch.zeros(1)), (forward, backward)

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = _Takes.apply(rows, self.weight, *self.seconds)  # type: ignore[no-untyped-call]
        return made


class _Dense(torch.autograd.Function):
    """A layout of rows, and of their gradients, as one number after the other, as messages of gloo must be."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.contiguous()


class Enter(nn.Module):
    """The beginning of a part: images are laid out as ffpipe's blocks have them."""

    def forward(self, rows: Tensor) -> Tensor:
        rows = _Dense.apply(rows)  # type: ignore[no-untyped-call]
        return rows.contiguous(memory_format=torch.channels_last) if rows.dim() == 4 else rows


class Leave(nn.Module):
    """The end of a part."""

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = _Dense.apply(rows)  # type: ignore[no-untyped-call]
        return made


class Answer(nn.Module):
    """The last part of a network: its bodies, and the logits of the last one's class head."""

    def __init__(self, blocks: Sequence[LocalBlock]) -> None:
        super().__init__()
        self.bodies, self.objective = nn.Sequential(Enter(), *(b.body for b in blocks)), blocks[-1].objective

    def forward(self, rows: Tensor) -> Tensor:
        logits = self.objective.score(self.bodies(rows))
        assert logits is not None
        return logits


@dataclass(frozen=True)
class Work:
    """A network cut into parts, and its minibatches. edges: one row before each part, and after the last."""

    parts: list[nn.Module]
    edges: list[tuple[int, ...]]
    rows: Callable[[int], Tensor]
    labels: Callable[[int], Tensor]


def timed_work(asked: Asked, parts: int) -> Work:
    """Return the parts that only take time."""
    scale = asked.microbatches
    forward, backward = (each * asked.world / parts / scale for each in asked.seconds)
    rows, labels = torch.rand(asked.batch, WIDTH), torch.zeros(asked.batch, dtype=torch.int64)
    modules: list[nn.Module] = [Takes(forward, backward) for _ in range(parts)]
    return Work(modules, [(WIDTH,)] * (parts + 1), lambda step: rows, lambda step: labels)


def computed_work(asked: Asked, parts: int) -> Work:
    """Return a network of ffpipe's, end to end: the bodies of its blocks, with the last one's class head."""
    job = make_job(config_of(asked.network, asked.steps + WARM_UP))
    network = job.network
    groups = partition([[float(cost.flops) for cost in costs_of(network)]] * parts, None)
    blocks: list[Block] = [network.make(index, Workspace(CPU)) for index in range(len(network))]
    local = [block for block in blocks if isinstance(block, LocalBlock)]
    modules: list[nn.Module] = [
        nn.Sequential(Enter(), *(local[i].body for i in group), Leave()) for group in groups[:-1]
    ]
    modules.append(Answer([local[i] for i in groups[-1]]))
    feed = Feed(network, job.splits, CPU)

    @lru_cache(maxsize=1)  # asked for rows and for labels
    def tensors(step: int) -> Tensors:
        found = feed.tensors(Train(step, 1))
        assert found is not None
        return found

    def made(step: int, name: str) -> Tensor:
        return tensors(step)[name][0].clone()

    edges = [network.edges[group.start].shape for group in groups] + [(network.takes.classes,)]
    return Work(modules, edges, lambda step: made(step, X), lambda step: made(step, LABELS))


def own_parts(way: str, world: int, rank: int) -> tuple[list[int], int]:
    """Return the parts of a network that a process has, and how many there are."""
    if way not in PIPED:
        return [0], 1
    parts = world * (2 if way == "interleaved" else 1)
    return list(range(rank, parts, world)), parts


def piped_messages(own: list[int], parts: int, microbatches: int) -> int:
    """Return the messages that a process of a pipeline sends a minibatch: for each part and microbatch activities to
    the next part, and gradients to the one before."""
    return microbatches * sum((part < parts - 1) + (part > 0) for part in own)


@dataclass
class Sent:
    """Messages that a process sends: so many in each minibatch, and the buckets of gradients that were summed."""

    each: float = 0.0
    buckets: int = 0

    def a_minibatch(self, steps: int) -> float:
        """Return the messages a minibatch, after so many."""
        return self.each + self.buckets / steps

    def summed(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Have a bucket summed, as is done without a hook."""
        self.buckets += 1
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all processes


def data_parallel(module: nn.Module, rank: int) -> tuple[DistributedDataParallel, Sent]:
    """Return a module whose gradients all processes sum. Before each step the first one hands out buffers, by dtype."""
    made = DistributedDataParallel(module)
    sent = Sent(float(rank == 0) * len({buffer.dtype for buffer in module.buffers()}))
    made.register_comm_hook(sent, lambda sent, bucket: sent.summed(bucket))  # torch looks at annotations, if any
    return made, sent


def steps_of(asked: Asked, rank: int) -> tuple[Callable[[int], object], list[nn.Module], Sent]:
    """Return a function that makes one update, the modules of this process, and what it sends."""
    own, parts = own_parts(asked.way, asked.world, rank)
    interleaved = asked.way == "interleaved"
    work = timed_work(asked, parts) if asked.seconds else computed_work(asked, parts)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    if asked.way not in PIPED:
        whole = work.parts[0]
        module, sent = data_parallel(whole, rank) if asked.world > 1 else (whole, Sent())
        share = asked.batch // asked.world

        def alone(step: int) -> None:
            mine = slice(rank * share, (rank + 1) * share)
            loss(module(work.rows(step)[mine]), work.labels(step)[mine]).backward()

        return alone, [module], sent
    # Four seconds of imports, which tests of this module's arithmetic do without.
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

    size = asked.batch // asked.microbatches

    def example(index: int) -> Tensor:
        """Return the rows before a part, which get a gradient but for those of the data."""
        return torch.zeros(size, *work.edges[index], requires_grad=index > 0)

    stages = [
        PipelineStage(
            work.parts[index], index, parts, CPU, input_args=(example(index),), output_args=(example(index + 1),)
        )
        for index in own
    ]
    schedule: Any = (
        ScheduleInterleaved1F1B(stages, asked.microbatches, loss_fn=loss)  # type: ignore[arg-type]
        if interleaved
        else {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[asked.way](stages[0], asked.microbatches, loss_fn=loss)
    )

    def piped_step(step: int) -> None:
        given = (work.rows(step),) if rank == 0 else ()
        last = {"target": work.labels(step), "losses": []} if rank == asked.world - 1 else {}
        schedule.step(*given, **last)

    return piped_step, [work.parts[index] for index in own], Sent(piped_messages(own, parts, asked.microbatches))


def optimizer_of(asked: Asked, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return torch's own form of the optimiser that ffpipe's blocks have, which decays no vectors."""
    settings = config_of(asked.network or "dense", 1).training.optimizer
    groups = [
        {"params": [each for each in parameters if (each.dim() > 1) == decayed], "weight_decay": decay}
        for decayed, decay in ((True, settings.weight_decay), (False, 0.0))
    ]
    made: torch.optim.Optimizer = getattr(torch.optim, settings.kind)(
        [group for group in groups if group["params"]], lr=settings.learning_rate, **settings.options
    )
    return made


def main() -> None:
    asked = Asked(**json.loads(sys.argv[1]))
    rank = int(sys.argv[2])
    torch.set_num_threads(asked.threads)
    keep_freed()
    dist.init_process_group("gloo", init_method=f"file://{asked.place}", rank=rank, world_size=asked.world)
    step, modules, sent = steps_of(asked, rank)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = optimizer_of(asked, parameters)
    began = worked = 0.0
    for index in range(asked.steps + WARM_UP):
        if index == WARM_UP:
            dist.barrier()
            began, worked, sent.buckets = time.perf_counter(), time.process_time(), 0
        step(index)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    dist.barrier()
    seconds = time.perf_counter() - began
    told = {
        "rate": asked.steps * asked.batch / seconds,
        "busy": [(time.process_time() - worked) / seconds],
        "messages": [sent.a_minibatch(asked.steps)],
    }
    print(json.dumps(told), flush=True)
    dist.destroy_process_group()


assert ffpipe
if __name__ == "__main__":
    main()

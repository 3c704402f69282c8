"""The cost of a block by autograd beside the same module, loss and optimiser in a bare PyTorch loop.

    python scripts/bench_block.py [--rounds N] [--threads N]

Convolutions of 64 to 256 channels at 32 x 32 and 8 x 8, and a transformer block of width 256. The bare loop runs the
module, its head and the loss, steps the optimiser, and keeps the detached output, as any program of local losses does.
Rounds of both are interleaved, with the allocator of a
stage; the figure is the ratio of the medians. The target is at most 1.10.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from arguments import positive

import ffpipe
from ffpipe import BlockConfig, Optimizer, recipe
from ffpipe.config.schema import Options
from ffpipe.learn.block import Step
from ffpipe.learn.blueprint import make_blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.learn.items import CPU
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import Input
from ffpipe.system.memory import keep_freed

import torch  # isort: skip - after ffpipe, which sets what torch reads from the environment

CONV = [(channels, side) for side in (32, 8) for channels in (64, 128, 256)]


def block_of(config: BlockConfig, shape: tuple[int, ...], batch: int, tokens: bool) -> LocalBlock:
    """Return the second of two blocks, so that it gets what a block of its kind hands on."""
    training = replace(
        recipe("digits").training,
        blocks=(config, config),
        negatives="none",
        head=False,
        labels="none",
        inputs="tokens" if tokens else "images",
        batch_size=batch,
        optimizer=Optimizer(kind="Adam", learning_rate=0.001),
    )
    inputs, labels = row_specs(training, shape, 64)
    network = make_blueprint(training, Input(shape, inputs.size, 64), inputs, labels, 100)
    block = network.make(1, Workspace(CPU))
    assert isinstance(block, LocalBlock)
    return block


def cases() -> dict[str, tuple[LocalBlock, torch.Tensor]]:
    """Return a block and labels by name."""
    found = {}
    for channels, side in CONV:
        batch = 16 if side == 32 else 128
        options: Options = {"channels": channels}
        block = block_of(
            BlockConfig(kind="conv", options=options, objective_options={"pool": 4}), (side, side, 3), batch, False
        )
        labels = torch.arange(batch).remainder(64)
        found[f"conv {channels} at {side} x {side}, batch {batch}"] = (block, labels)
    options = {"width": 256, "heads": 4, "symbols": 64}
    block = block_of(BlockConfig(kind="transformer", options=options), (65,), 16, True)
    found["transformer 256, 64 tokens, batch 16"] = (block, torch.arange(16 * 64).remainder(64).view(16, 64))
    return found


def bare(
    block: LocalBlock, x: torch.Tensor, labels: torch.Tensor, products: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Return a function that makes one step of a plain program; on a GPU it can be captured as a graph."""
    body, head = copy.deepcopy(block.body), copy.deepcopy(block.objective)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.001, capturable=x.is_cuda)
    body.train()

    def step() -> None:
        with torch.autocast(x.device.type, products, enabled=products != torch.float32):
            h = body(x)
            logits = head.score(h)
            assert logits is not None
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        h.detach()

    return step


def measured(steps: list[Callable[[], None]], rounds: int) -> list[float]:
    """Measure the median seconds of each, in interleaved rounds."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds + 2):
        for each, step in zip(times, steps, strict=True):
            begun = time.perf_counter()
            step()
            each.append(time.perf_counter() - begun)
    return [statistics.median(each[2:]) for each in times]


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--threads", type=positive, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed()
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.rounds} rounds")
    for name, (block, labels) in cases().items():
        layout = ffpipe.RowLayout(len(labels), ("examples",))
        x = torch.randn(len(labels), *block.inputs.shape)
        out = torch.empty(len(labels), *block.outputs.shape)
        number = iter(range(10**9))

        @torch.no_grad()
        def learn(
            block: LocalBlock = block, x: torch.Tensor = x, labels: torch.Tensor = labels, out: torch.Tensor = out
        ) -> None:
            block.learn(x, layout, labels, Step(next(number)), out)  # noqa: B023  # called within this round

        ours, plain = measured([learn, bare(block, x, labels)], options.rounds)
        print(f"{name}: {ours * 1e3:.1f} ms, bare loop {plain * 1e3:.1f} ms, ratio {ours / plain:.3f}", flush=True)


if __name__ == "__main__":
    main()

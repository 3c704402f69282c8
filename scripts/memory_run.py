"""One measured run of scripts/bench_memory.py, in a process of its own: a config of sizes in, one line of JSON out.

The data are the digits shipped with the package: what is trained on does not change what memory it takes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint_sequential

from ffpipe import override, recipe, train
from ffpipe.config.schema import BlockConfig, Config, Data, Optimizer
from ffpipe.runs.controller import planned as plan
from ffpipe.system.memory import give_back_at_once, peak_bytes, process_bytes

FEATURES, CLASSES = 64, 10
TOKENS = 64
# Fixed, since the Ray engine would choose it by what it measures, and what a stage takes goes with it.
CHUNK = 1
# Layers that the head sees, however many there are.
SEEN = 3
# The share of one GPU, for as many stages as there are to be.
GPU_SHARE = 1 / 16
# Numbers a weight of the optimiser of both: SGD with momentum keeps one number a weight, as Hinton's averaging does.
LEARNING_RATE, MOMENTUM = 0.001, 0.9
MICRO_BATCHES = 4


def main() -> None:
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    kind = wanted.pop("kind")
    made = backprop(kind, **wanted) if kind in STEPS else forward_forward(kind, **wanted)
    print(json.dumps(made))


def dims(depth: int, width: int) -> list[int]:
    return [FEATURES, *[width] * depth]


def forward_forward(
    engine: str,
    depth: int,
    width: int,
    batch: int,
    steps: int,
    stages: int = 0,
    chunk: int = CHUNK,
    seen: int = SEEN,
    device: str = "cpu",
    blocks: str = "",
) -> dict[str, Any]:
    """Train `steps` steps through an engine. chunk: 0 for the engine's own. seen: the head sees so many layers, the
    last. blocks: "conv" or "transformer" blocks of that width with class heads, in place of dense layers."""
    with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as folder:
        config = _config(engine, depth, width, batch, steps, stages, folder)
        config = override(config, {"training.head_from": max(0, depth - seen), "execution.chunk": chunk})
        config = config if not blocks else _of_blocks(config, blocks, depth, width, folder)
        config = override(config, {"execution.device": device, "execution.gpus": GPU_SHARE if device == "cuda" else 0})
        _, planned, _ = plan(config)
        result = train(config)
    summary = result.summary
    peaks = summary["peak_device_bytes" if device == "cuda" else "peak_rss_bytes"]
    return {
        "peak": max(peaks),
        "sum": sum(peaks) if engine == "ray" else max(peaks),
        "predicted": max(stage.on_device for stage in planned.stages) if device == "cuda" else planned.largest,
        "examples_per_second": summary["examples_per_second"],
        "weights_sha256": result.weights_sha256,
    }


def _of_blocks(config: Config, kind: str, depth: int, width: int, folder: str) -> Config:
    """Configure the same with blocks trained by autograd, on the digits as images or on random characters."""
    block = BlockConfig(kind=kind, options={"channels" if kind == "conv" else "width": width})
    training = replace(
        config.training,
        blocks=(block,) * depth,
        labels="none",
        negatives="none",
        head=False,
        goodness_from=0,
        optimizer=Optimizer(kind="Adam", learning_rate=LEARNING_RATE),
    )
    if kind == "transformer":
        text = Path(folder) / "text.txt"
        letters = np.random.default_rng(1).integers(97, 123, 1400 * TOKENS + 1, dtype=np.uint8)
        text.write_bytes(letters.tobytes())
        data = Data(source="text", train=(str(text),), length=TOKENS, split_seed=-1, test_count=1)
        training = replace(training, inputs="tokens", data=data, epochs=max(1, training.epochs))
    return replace(config, training=training)


def _config(engine: str, depth: int, width: int, batch: int, steps: int, stages: int, folder: str) -> Config:
    epochs = max(1, round(steps / (1400 // batch)))
    fields = {
        "training.dims": dims(depth, width),
        "training.batch_size": batch,
        "training.epochs": epochs,
        "training.negatives": "random",
        "training.data.validation": 0,
        "execution.engine": engine,
        "execution.stages": stages,
        "execution.evaluate_every": 0,
        "execution.run_dir": f"{folder}/run",
    }
    return override(recipe("digits"), fields)


def backprop(kind: str, depth: int, width: int, batch: int, steps: int, device: str = "cpu") -> dict[str, Any]:
    """Train `steps` steps of backpropagation through the same layers and a softmax layer, with the allocator of a
    stage."""
    give_back_at_once()
    _ready(kind, device)
    before = torch.cuda.memory_allocated() if device == "cuda" else process_bytes()
    network = Mlp(dims(depth, width)).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    images, labels = torch.rand(batch, FEATURES, device=device), torch.randint(0, CLASSES, (batch,), device=device)
    step = STEPS[kind]
    step(network, optimizer, images, labels)
    started = time.perf_counter()
    for _ in range(1, steps):
        step(network, optimizer, images, labels)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()
    predicted = before + predicted_backprop(kind, depth, width, batch)
    rate = (steps - 1) * batch / seconds
    return {"peak": peak, "sum": peak, "predicted": predicted, "examples_per_second": rate}


class Mlp(nn.Module):
    """The ReLU layers of such sizes, and a linear one that tells classes apart."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(fan_in, width) for fan_in, width in pairwise([*sizes, CLASSES]))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits (n, classes) of images (n, features)."""
        for layer in self.layers[:-1]:
            rows = torch.relu(layer(rows))
        logits: Tensor = self.layers[-1](rows)
        return logits


def _ready(kind: str, device: str) -> None:
    """Load, and use once on next to nothing, what a step needs."""
    network = Mlp(dims(2, 8)).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    images, labels = torch.rand(8, FEATURES, device=device), torch.randint(0, CLASSES, (8,), device=device)
    STEPS[kind](network, optimizer, images, labels)


def plain(network: Mlp, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    cross_entropy(network(images), labels).backward()
    optimizer.step()


def checkpointed(network: Mlp, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Keep only the inputs of sqrt(depth) segments and compute the rest again (Chen et al., arXiv 1604.06174)."""
    optimizer.zero_grad()
    hidden = [nn.Sequential(layer, nn.ReLU()) for layer in network.layers[:-1]]
    rows = images.requires_grad_()
    rows = checkpoint_sequential(hidden, _segments(len(hidden)), rows, use_reentrant=False)
    cross_entropy(network.layers[-1](rows), labels).backward()
    optimizer.step()


def accumulated(network: Mlp, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Cut the batch into micro-batches whose gradients are summed."""
    optimizer.zero_grad()
    for some, of_some in zip(images.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True):
        (cross_entropy(network(some), of_some) / MICRO_BATCHES).backward()
    optimizer.step()


STEPS: dict[str, Callable[[Mlp, torch.optim.Optimizer, Tensor, Tensor], None]] = {
    "backprop": plain,
    "checkpointing": checkpointed,
    "accumulation": accumulated,
}


def _segments(depth: int) -> int:
    return max(1, int(depth**0.5))


def predicted_backprop(kind: str, depth: int, width: int, batch: int) -> int:
    """Predict the bytes of weights, their gradients and momenta; each layer's output, which its successor and its ReLU
    keep; three rows of activations on the way (a product before its ReLU, two derivatives)."""
    weights = FEATURES * width + (depth - 1) * width * width + width * CLASSES
    rows = batch // MICRO_BATCHES if kind == "accumulation" else batch
    kept = depth
    if kind == "checkpointing":
        segments = _segments(depth)
        kept = segments + -(-depth // segments)
    return 4 * (3 * weights + (kept + 3) * rows * width)


if __name__ == "__main__":
    main()

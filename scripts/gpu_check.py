"""What an NVIDIA GPU makes of it: the same weights in every order, and the time of a step, kind of block by kind.

    python scripts/gpu_check.py [--out FILE]

Needs PyTorch with CUDA and what ffpipe imports; Ray only for the runs of its engine, which are left out without it.
Every kind of block is trained for two epochs on the packaged digits: through one stage, through three, and layerwise,
on the GPU; all must have one digest. The errors stand beside those of the CPU. Then steps are timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ffpipe
from ffpipe import BlockConfig, Config, Optimizer, recipe
from ffpipe.learn.block import Step
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import make_job

import torch  # isort: skip - after ffpipe, which sets what torch reads from the environment

WAYS: dict[str, dict[str, Any]] = {
    "one stage": {"engine": "local", "stages": 1, "chunk": 1},
    "three stages": {"engine": "local", "stages": 3, "chunk": 4},
    "layerwise": {"engine": "layerwise", "chapter": 9},
    "ray, one stage": {"engine": "ray", "stages": 1},
}
ROUNDS = 20


def kinds() -> dict[str, Config]:
    """A small network of each kind of block."""
    plain: dict[str, Any] = {"negatives": "none", "head": False, "labels": "none", "schedule": "onecycle"}
    conv = tuple(
        BlockConfig(kind="conv", options={"channels": c, "dropout": 0.1}, objective_options={"kind": "mlp", "depth": 1})
        for c in (16, 32, 32)
    )
    residual = tuple(BlockConfig(kind="residual", options={"channels": 16}) for _ in range(3))
    fields: dict[str, dict[str, Any]] = {
        "dense, hard negatives": {},
        "conv, batch norm, dropout": {"blocks": conv, **plain},
        "residual": {"blocks": residual, **plain},
    }
    config, found = recipe("digits"), {}
    for name, values in fields.items():
        adam: dict[str, Any] = {"optimizer": Optimizer(kind="Adam", learning_rate=0.003)} if values else {}
        for precision in ("float32", "bfloat16"):
            changes: dict[str, Any] = {"epochs": 2, "precision": precision, **values, **adam}
            training = replace(config.training, **changes)
            execution = replace(config.execution, evaluate_every=0)
            found[f"{name}, {precision}"] = replace(config, training=training, execution=execution)
    return found


def digests(config: Config, folder: Path) -> dict[str, Any]:
    """Digest and error of each way on the GPU, and on the CPU."""
    found: dict[str, Any] = {}
    ways = {name: {**way, "device": "cuda"} for name, way in WAYS.items()}
    ways["on the CPU"] = {"engine": "local", "stages": 1}
    if importlib.util.find_spec("ray") is None:
        del ways["ray, one stage"]
    for number, (name, way) in enumerate(ways.items()):
        execution = replace(config.execution, run_dir=str(folder / str(number)), **way)
        result = ffpipe.train(replace(config, execution=execution))
        found[name] = {"sha256": result.weights_sha256, "errors": result.test_errors}
    return found


def seconds_a_step(config: Config, **fields: Any) -> float:
    """Median seconds of one step of the last block of a network on the GPU."""
    training = replace(config.training, **fields)
    network = make_job(replace(config, training=training)).network
    index = len(network) - 1
    outline, layout, device = network.outlines[index], network.layout, torch.device("cuda")
    block = network.make(index, Workspace(device))
    x = torch.randn(layout.rows, *outline.inputs.shape, device=device).to(outline.inputs.dtype)
    out = torch.empty(layout.rows, *outline.outputs.shape, dtype=outline.outputs.dtype, device=device)
    labels = torch.zeros(layout.batch, dtype=torch.int64, device=device)
    times = []
    for step in range(ROUNDS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.no_grad():
            block.learn(x, layout, labels, Step(step), out)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[ROUNDS // 2 :])


def main() -> int:
    """Run all of it; returns 1 where two ways on the GPU have different weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing was checked")
        return 0
    report: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "kinds": {}}
    differing = 0
    for name, config in kinds().items():
        with tempfile.TemporaryDirectory() as folder:
            found = digests(config, Path(folder))
        on_gpu = {way: each["sha256"] for way, each in found.items() if way != "on the CPU"}
        same = len(set(on_gpu.values())) == 1
        differing += not same
        print(f"{name}: {len(on_gpu)} ways, {'one digest' if same else on_gpu}; {found['one stage']['errors']} "
              f"(CPU: {found['on the CPU']['errors']})", flush=True)  # fmt: skip
        report["kinds"][name] = found
    digits = recipe("digits")
    blocks = tuple(BlockConfig(kind="conv", options={"channels": 128}) for _ in range(2))
    for precision in ("float32", "bfloat16"):
        wide = seconds_a_step(digits, dims=(64, 2000, 2000), batch_size=100, precision=precision)
        conv = seconds_a_step(digits, batch_size=128, precision=precision, blocks=blocks, negatives="none", head=False,
                              labels="none", optimizer=Optimizer(kind="Adam"))  # fmt: skip
        report[precision] = {"dense 2000 x 2000, 300 rows": wide, "conv 128 at 8 x 8, 128 rows": conv}
        print(f"{precision}: dense 2000 x 2000 {wide * 1e3:.2f} ms a step, conv of 128 channels {conv * 1e3:.2f} ms")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())

"""A check of ffpipe on an NVIDIA GPU: weights, rounding, time and memory, kind of block by kind.

    python scripts/gpu_check.py [--parts digests rounding dense conv memory cifar10] [--minutes 8] [--out FILE]

Needs PyTorch (2.11 or newer) with CUDA and what ffpipe imports, no network, and Ray only for the runs of its engine,
which are left out without it. ffpipe itself need not be installed, which asks for a newer PyTorch: from a checkout,
`PYTHONPATH=. python scripts/gpu_check.py`. Parts:

    digests    every kind of block is trained for two epochs on the packaged digits: through one stage, through three,
               and layerwise; all must have one digest, and a second run too. Two kinds are also cut into two shards,
               which in Ray's engine two replicas on the one GPU divide
    rounding   outputs and weights after three steps beside the CPU's
    dense      a step of 2000 x 2000 units beside its two products, in float32, TF32 and bfloat16, and as a CUDA graph
    conv       the same of a convolution, beside the same module in a bare loop; both as CUDA graphs too
    memory     the most bytes of tensors on the device, which may be no more than the plan says and a tenth
    cifar10    images a second of the recipe `cifar10-local`, for a minute: on CIFAR-10 where FFPIPE_DATA names a folder
               with it, else on random images of its shape

Every part is a process of its own, which is ended when its minutes, or those of the whole, are over. `--device cpu`
tries the script itself without a GPU. Exit status 1 where weights differ or are not those of the CPU within rounding,
memory is more than planned, or a part failed, was ended or was left out; 0 without a GPU, where nothing is checked.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import ffpipe
from ffpipe import BlockConfig, Callback, Config, Optimizer, override, recipe
from ffpipe.pipeline.job import make_job
from ffpipe.planning.estimate import draft_layout, estimate_layout

import torch  # isort: skip - after ffpipe, which sets what torch reads from the environment

from arguments import above_0
from gpu_parts import FORMATS, conv_times, convolutions, dense_times, distance_from_cpu, network_of

WAYS: dict[str, dict[str, Any]] = {
    "one stage": {"engine": "local", "stages": 1, "chunk": 1},
    "one stage again": {"engine": "local", "stages": 1, "chunk": 1},
    "three stages": {"engine": "local", "stages": 3, "chunk": 4},
    "layerwise": {"engine": "layerwise", "chapter": 9},
    "ray, one stage": {"engine": "ray", "stages": 1},
}
# Norm of the difference over the norm, after three steps. Rounded products differ by 2^-9 each.
ROUNDING = {"float32": 1e-3, "bfloat16": 5e-2}
# The most bytes on the device as a share of what the plan says.
MOST_OF_PLAN = 1.1
SECONDS_OF_CIFAR10 = 60.0
# Time of a part that is ended to end its own processes, and the least with which one begins.
SECONDS_TO_END, LEAST_SECONDS = 10.0, 20.0
RANDOM_IMAGES = 10_000


def kinds() -> dict[str, Config]:
    """Configure a small network of each kind of block."""
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
    for name in ("dense, hard negatives, float32", "residual, float32"):
        found[f"{name}, two shards"] = override(found[name], {"training.shards": 2})
    return found


def ways(config: Config, device: str) -> dict[str, dict[str, Any]]:
    """Return the ways in which a config is trained on a device, all of which make the same bits."""
    found = {name: {**way, "device": device} for name, way in WAYS.items()}
    if config.training.shards > 1:
        half = {"gpus": 0.5} if device == "cuda" else {}
        found["ray, two replicas"] = {"engine": "ray", "stages": 1, "replicas": 2, "device": device, **half}
    ray = importlib.util.find_spec("ray") is not None
    return {name: way for name, way in found.items() if ray or way["engine"] != "ray"}


def digests(device: str, folder: Path) -> dict[str, Any]:
    """Return digest and errors of each way on the device, and on the CPU."""
    found: dict[str, Any] = {"differing": 0}
    for kind, config in kinds().items():
        runs = {}
        for name, way in {**ways(config, device), "on the CPU": {"engine": "local", "stages": 1}}.items():
            execution = replace(config.execution, run_dir=str(folder / f"{kind}, {name}"), **way)
            result = ffpipe.train(replace(config, execution=execution))
            runs[name] = {"sha256": result.weights_sha256, "errors": result.test_errors}
        there = {way: each["sha256"] for way, each in runs.items() if way != "on the CPU"}
        same = len(set(there.values())) == 1
        found["differing"] += not same
        print(f"{kind}: {len(there)} ways, {'one digest' if same else there}; {runs['one stage']['errors']} "
              f"(CPU: {runs['on the CPU']['errors']})", flush=True)  # fmt: skip
        found[kind] = runs
    return found


def rounding(device: str, folder: Path) -> dict[str, Any]:
    """Measure the distances from the CPU of the second block of each kind that draws nothing, and whether they are
    rounding."""
    found: dict[str, Any] = {"differing": 0}
    for precision, most in ROUNDING.items():
        dense = network_of(recipe("digits"), dims=(64, 500, 500), precision=precision)
        for kind, job in (("dense", dense), ("conv", convolutions(32, precision))):
            apart = distance_from_cpu(job, 1, torch.device(device))
            near = max(apart.values()) <= most
            found["differing"] += not near
            print(f"{kind}, {precision}: {apart} from the CPU{'' if near else f', which must be at most {most}'}")
            found[f"{kind}, {precision}"] = apart
    return found


def dense(device: str, folder: Path) -> dict[str, Any]:
    """Measure the milliseconds of a dense step in each format."""
    return {name: _said(f"dense, {name}", dense_times(name, torch.device(device))) for name in FORMATS}


def conv(device: str, folder: Path) -> dict[str, Any]:
    """Measure the milliseconds of a convolutional step in each format."""
    cases = {f"{channels} channels, {name}": (channels, name) for channels in (64, 256) for name in FORMATS}
    return {case: _said(f"conv, {case}", conv_times(*each, torch.device(device))) for case, each in cases.items()}


def memory(device: str, folder: Path) -> dict[str, Any]:
    """Measure the most bytes of tensors on the device in a run of one stage, beside what the plan says of it; a case
    differs where they are more."""
    found: dict[str, Any] = {"differing": 0}
    wide = {"training.dims": [64, 2000, 2000, 2000], "training.epochs": 2}
    for name, config in (("dense", override(recipe("digits"), wide)), ("conv", kinds()["residual, float32"])):
        way: dict[str, Any] = {"engine": "local", "stages": 1, "chunk": 4, "device": device}
        config = replace(config, execution=replace(config.execution, run_dir=str(folder / name), **way))
        job = make_job(config)
        planned = estimate_layout(job, draft_layout(job), 0).stages[0].on_device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        measured = ffpipe.train(config).summary["peak_device_bytes"][0]
        found[name] = _said(f"memory, {name}", {"planned": planned / 1e6, "measured": measured / 1e6}, "MB")
        if beyond_plan(measured, planned):
            found["differing"] += 1
            print(f"memory, {name}: measured may be at most {MOST_OF_PLAN:g} times what is planned", flush=True)
    return found


def beyond_plan(measured: int, planned: int) -> bool:
    """Tell whether a run took more bytes than were planned. A CPU has no count of tensors: 0."""
    return measured > MOST_OF_PLAN * planned


class StopAfter(Callback):
    """A callback that ends a run some seconds after it began, and keeps how fast it was."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.rates = seconds, list[float]()

    def on_start(self, run: ffpipe.RunStart) -> None:
        self._stop, self._begun = run.stop, time.monotonic()

    def on_speed(self, speed: ffpipe.Speed) -> None:
        self.rates.append(speed.examples_per_second)
        if time.monotonic() - self._begun > self._seconds:
            self._stop()


def cifar10(device: str, folder: Path) -> dict[str, Any]:
    """Measure the images a second of `cifar10-local` in one process."""
    config = recipe("cifar10-local")
    fields: dict[str, Any] = {"execution.engine": "local", "execution.stages": 1, "execution.device": device}
    fields |= {"execution.run_dir": str(folder / "cifar10"), "execution.log_steps": 20, "execution.evaluate_every": 0}
    if "FFPIPE_DATA" not in os.environ:
        chance = np.random.default_rng(1)
        images = chance.integers(0, 256, (RANDOM_IMAGES, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / "random.npz", images=images, labels=chance.integers(0, 10, RANDOM_IMAGES))
        fields |= {"training.data.source": "npz", "training.data.train": [str(folder / "random.npz")]}
        fields |= {"training.data.validation": 0, "training.data.test_count": 1000}
    stop = StopAfter(SECONDS_OF_CIFAR10)
    with suppress(ffpipe.Interrupted):
        ffpipe.train(override(config, fields), callbacks=[stop])
    rates = sorted(stop.rates[1:] or stop.rates)
    return _said("cifar10-local", {"images a second": rates[len(rates) // 2] if rates else 0.0}, "")


def _said(name: str, figures: dict[str, Any], unit: str = "ms") -> dict[str, Any]:
    """Print figures, and give them back."""
    text = "; ".join(f"{what} {value:.3f} {unit}" if isinstance(value, float) else f"{what}: {value}"
                     for what, value in figures.items())  # fmt: skip
    print(f"{name}: {text}", flush=True)
    return figures


# With the minutes that each takes at most on a data centre's GPU.
PARTS: dict[str, tuple[Callable[[str, Path], dict[str, Any]], float]] = {
    "rounding": (rounding, 0.6),
    "dense": (dense, 0.4),
    "conv": (conv, 0.7),
    "memory": (memory, 0.7),
    "cifar10": (cifar10, 1.8),
    "digests": (digests, 3.8),
}


def bounded(command: Sequence[str], seconds: float) -> int | None:
    """Run a command, and end it and all that it started when its seconds are over; returns its exit status, or None
    where it was ended."""
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            # It takes down a cluster that it has; what does not hear is killed.
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def in_turn(parts: Sequence[str], device: str, minutes: float, report: dict[str, Any], out: Path | None) -> int:
    """Run parts in processes of their own, as far as there is time, and put what they find into the report; returns how
    many did not pass."""
    end, failed = time.monotonic() + 60 * minutes, 0
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            begun, file = time.monotonic(), Path(folder) / part
            # A part that is ended has some seconds more.
            seconds = min(60 * PARTS[part][1], end - begun - SECONDS_TO_END)
            if seconds < LEAST_SECONDS:
                print(f"{part}: left out, for there is no time for it", flush=True)
                failed += 1
                continue
            command = [sys.executable, __file__, "--device", device, "--alone", part, "--out", str(file)]
            status = bounded(command, seconds)
            failed += status != 0
            if file.exists():
                report[part] = json.loads(file.read_text())
            ended = {0: "", 1: ", not passed", None: ", ended: its time was over"}.get(status, f", failed ({status})")
            print(f"-- {part}: {time.monotonic() - begun:.0f} s{ended}", flush=True)
            if out:
                out.write_text(json.dumps(report, indent=1))
    return failed


def alone(part: str, device: str, out: Path) -> int:
    """Run a part in this process, and write what it finds; returns 1 where something differs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a run takes down what it started
    with tempfile.TemporaryDirectory() as folder:
        found = PARTS[part][0](device, Path(folder))
    differing = found.pop("differing", 0)
    out.write_text(json.dumps(found))
    return int(differing > 0)


def main() -> int:
    """Run the parts; returns 1 where one does not pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=above_0, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="write what was found as JSON, after every part")
    parser.add_argument("--alone", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was checked")
        return 0
    if options.alone:
        return alone(options.alone, options.device, options.out)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    report: dict[str, Any] = {"device": name, "torch": torch.__version__}
    print(f"{name}, torch {torch.__version__}", flush=True)
    return int(in_turn(options.parts, options.device, options.minutes, report, options.out) > 0)


if __name__ == "__main__":
    sys.exit(main())

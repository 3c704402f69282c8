"""Examples a second of N Ray stages, beside what the same stages reach with nothing between them.

    python scripts/bench_pipeline.py [--width 1000] [--layers 4] [--stages 2] [--steps 500] [--rounds 5]
    python scripts/bench_pipeline.py --conv 64 --steps 100
    python scripts/bench_pipeline.py --conv 64 --steps 100 --stages 1 --replicas 2

With --conv the blocks are convolutions of so many channels at 8 x 8, with class heads and no negatives (what is called
"ray hard" and "ray random" is then the same). With --replicas each stage has so many, which divide as many shards of
each minibatch; the bound is then of as many processes that exchange nothing.

Contenders, in interleaved rounds of `--steps` minibatches of 100 (a figure is the median of its rounds):

    ray hard, ray random   the pipeline, with hard and with random negatives, the head trained in both
    bound                  the same stages in as many processes at the same time on the same cores, fed from their
                           own memory, nothing sent: no pipeline of these stages can be faster
    local 1, local all     the local engine in one process, with one thread and with all

Rates are of the last stage in steady state, without filling. Last comes one line of JSON; `efficiency` is the
share of the bound that the pipeline reaches, `epoch_over_local_1` the time of all steps through Ray, with filling
and draining, over that of the local engine with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import natural, positive
from rich.console import Console
from rich.table import Table

from ffpipe.config.schema import BlockConfig, Config, Data, Execution, Optimizer, Options, Training
from ffpipe.engines.local import LocalEngine
from ffpipe.engines.ray.settings import prepare_ray
from ffpipe.learn.workspace import OutputsInTurn, Workspace
from ffpipe.pipeline.job import Layout, Start, make_job
from ffpipe.pipeline.packet import LABELS, TAP, X
from ffpipe.pipeline.publisher import OUTPUTS
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.pipeline.worker_setup import set_allocator
from ffpipe.storage.store import Store
from ffpipe.telemetry.report import StageReport

BATCH, FEATURES, CLASSES = 100, 784, 10
# Contenders that may be left out: the others are what ratios are of.
OPTIONAL = ("ray random", "local 1", "local all")


@dataclass(frozen=True)
class Sizes:
    """The network that is timed. conv: channels of convolutions in place of dense layers of `width`; 0: none."""

    width: int
    layers: int
    lag: int
    chunk: int = 0
    precision: str = "float32"
    conv: int = 0
    replicas: int = 1


def make_config(sizes: Sizes, data: Path, negatives: str, stages: int) -> Config:
    source = Data(source="npz", train=(str(data),), test_count=1)
    execution = Execution(stages=stages, replicas=sizes.replicas, chunk=sizes.chunk, keep_freed=True)
    if sizes.conv:
        # Batch normalisation over all replicas takes two exchanges of its own.
        kind: Options = {"channels": sizes.conv, "norm": sizes.replicas == 1}
        block = BlockConfig(kind="conv", options=kind, objective_options={"pool": 4})
        training = Training(
            blocks=(block,) * sizes.layers,
            epochs=1,
            batch_size=BATCH,
            shards=sizes.replicas,
            labels="none",
            negatives="none",
            head=False,
            goodness_from=0,
            memory_format="channels-last",
            optimizer=Optimizer(kind="Adam", learning_rate=0.001),
            data=source,
        )
        return Config(training=training, execution=execution)
    return Config(
        training=Training(
            dims=(FEATURES, *[sizes.width] * sizes.layers),
            epochs=1,
            batch_size=BATCH,
            shards=sizes.replicas,
            precision=sizes.precision,  # type: ignore[arg-type]  # str
            optimizer=Optimizer(weight_decay=0.001),
            negatives=negatives,  # type: ignore[arg-type]  # str
            negative_lag=sizes.lag,
            data=source,
        ),
        execution=execution,
    )


def write_data(path: Path, steps: int, channels: int = 0) -> None:
    """Write random bytes in the size of MNIST's images, or 8 x 8 of so many channels: what is learned does not
    matter."""
    random = np.random.default_rng(1)
    shape = (8, 8, channels) if channels else (28, 28)
    images = random.integers(0, 256, (steps * BATCH + 1, *shape), dtype=np.uint8)
    np.savez(path, images=images, labels=random.integers(0, CLASSES, len(images)))


def last_stage_rate(reports: list[StageReport]) -> float:
    """Return the examples a second between the first and the last training item of the last stage."""
    last = max(reports, key=lambda report: (report.stage, report.seconds))
    return last.step * BATCH / (last.train_seconds - last.train_began)


def epoch_seconds(reports: list[StageReport]) -> float:
    """Return the seconds from the start of the first stage to the end of the last one's training, filling and draining
    included."""
    return max(report.train_seconds for report in reports)


def run_engine(engine: Any, config: Config) -> tuple[float, list[StageReport], Layout]:
    job = make_job(config)
    reports: list[StageReport] = []
    with tempfile.TemporaryDirectory() as folder:
        layout = engine.layout(job)
        layout = replace(layout, plan=replace(layout.plan, sizes=dict.fromkeys(layout.plan.sizes, 0)))
        engine.run(job, layout, Store(folder), Start(), Path(folder), reports.append)
    return last_stage_rate(reports), reports, layout


def run_ray(config: Config) -> tuple[float, list[StageReport], Layout]:
    from ffpipe.engines.ray.engine import RayEngine

    engine = RayEngine()
    try:
        return run_engine(engine, config)
    finally:
        engine.close()


def run_local(config: Config, threads: int) -> tuple[float, list[StageReport], Layout]:
    torch.set_num_threads(threads)
    return run_engine(LocalEngine(), config)


def bound_stage(spec: StageSpec, steps: int, chunk: int, ready: Any, go: Any, out: Any) -> None:
    """Work as one process: a stage that trains on the same chunk again and again."""
    torch.set_num_threads(1)
    set_allocator(spec.network, Execution(keep_freed=True))
    workspace = Workspace(torch.device("cpu"))
    stage = Stage(spec, lambda *_: None, workspace, OutputsInTurn(workspace, 1 if spec.is_last else OUTPUTS))
    network, edge = spec.network, spec.network.edges[spec.layers.start]
    examples = BATCH // spec.training.shards * len(spec.shards)
    tensors = {
        X: torch.rand(chunk, network.layout.rows // BATCH * examples, *edge.shape).to(edge.dtype),
        LABELS: torch.randint(0, CLASSES, (chunk, examples)),
    }
    for sender in spec.routes.senders(spec.index):
        for name in spec.routes.names(sender, spec.index):
            seen = network.outlines[int(name.removeprefix(TAP))].outputs
            tensors[name] = torch.rand(chunk, examples, *seen.shape).to(seen.dtype)
    stage.handle(Train(0, chunk), tensors)
    ready.release()
    go.wait()
    started = time.perf_counter()
    done = 0
    while done < steps:
        stage.handle(Train(done, chunk), tensors)
        done += chunk
    out.put(done * BATCH / (time.perf_counter() - started))


def run_bound(layout: Layout, steps: int) -> float:
    """Return the rate of the slowest of the stages, or of their replicas, when all run at once."""
    context = get_context("spawn")
    ready, go, out = context.Semaphore(0), context.Event(), context.Queue()
    arguments = (steps, layout.plan.chunk, ready, go, out)
    processes = [context.Process(target=bound_stage, args=(spec, *arguments)) for spec in layout.workers]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    rates: list[float] = [out.get() for _ in processes]
    for process in processes:
        process.join()
    return min(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=positive, default=1000)
    parser.add_argument(
        "--conv", type=natural, default=0, metavar="CHANNELS", help="convolutions in place of dense layers"
    )
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--stages", type=positive, default=2)
    parser.add_argument("--replicas", type=int, choices=(1, 2, 4), default=1, help="of each stage")
    parser.add_argument("--steps", type=positive, default=500)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--chunk", type=natural, default=0)
    parser.add_argument("--lag", type=natural, default=48)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--without", nargs="*", choices=OPTIONAL, default=[], help="contenders to leave out")
    options = parser.parse_args()
    prepare_ray()
    import ray

    rates: dict[str, list[float]] = {}
    epochs: dict[str, list[float]] = {}
    shares: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        write_data(data, options.steps, options.conv)
        sizes = Sizes(
            *(options.width, options.layers, options.lag, options.chunk),
            *(options.precision, options.conv, options.replicas),
        )
        hard, random = (make_config(sizes, data, rule, options.stages) for rule in ("hard", "random"))
        layout: Layout | None = None

        def through_ray(name: str, config: Config) -> float:
            nonlocal layout
            rate, reports, layout = run_ray(config)
            epochs.setdefault(name, []).append(epoch_seconds(reports))
            final = {report.stage: report for report in reports if not report.replica}
            shares[name] = [
                {kind: round(s / final[i].seconds, 4) for kind, s in final[i].seconds_by_kind.items()}
                for i in sorted(final)
            ]
            return rate

        def local(name: str, threads: int) -> float:
            rate, reports, _ = run_local(hard, threads)
            epochs.setdefault(name, []).append(epoch_seconds(reports))
            return rate

        def bound() -> float:
            assert layout is not None
            return run_bound(layout, options.steps)

        contenders: dict[str, Callable[[], float]] = {
            "ray hard": lambda: through_ray("ray hard", hard),
            "bound": bound,
            "ray random": lambda: through_ray("ray random", random),
            "local 1": lambda: local("local 1", 1),
            "local all": lambda: local("local all", os.cpu_count() or 1),
        }
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=40)
        for _ in range(options.rounds):
            for name, run in contenders.items():
                if name not in options.without:
                    rates.setdefault(name, []).append(run())
        ray.shutdown()
    assert layout is not None
    medians = {name: statistics.median(values) for name, values in rates.items()}
    table = Table("contender", "examples/s (median)", "least", "most", "of the bound")
    for name, values in rates.items():
        cells = (f"{medians[name]:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}")
        table.add_row(name, *cells, f"{medians[name] / medians['bound']:.3f}")
    console = Console(width=110)
    console.print(table)
    # Neighbours in one round share the machine's mood, so ratios are of pairs.
    pairs = zip(rates["ray hard"], rates["bound"], strict=True)
    efficiency = statistics.median(a / b for a, b in pairs)
    cut = " | ".join(f"{s.layers.start}-{s.layers.stop - 1}" for s in layout.stages)
    console.print(f"stages {cut}, chunk {layout.plan.chunk}, window {layout.window}")
    console.print(f"time of each stage: {shares['ray hard']}")
    result = {
        "benchmark": "pipeline",
        "width": options.conv or options.width,
        "layers": options.layers,
        "stages": options.stages,
        "replicas": options.replicas,
        "precision": options.precision,
        "chunk": layout.plan.chunk,
        "examples_per_second": medians,
        "efficiency": efficiency,
    }
    if "ray random" in rates:
        hard_over_random = zip(rates["ray hard"], rates["ray random"], strict=True)
        result["hard_over_random"] = statistics.median(a / b for a, b in hard_over_random)
    if "local 1" in epochs:
        ray_over_local = zip(epochs["ray hard"], epochs["local 1"], strict=True)
        result["epoch_over_local_1"] = statistics.median(a / b for a, b in ray_over_local)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

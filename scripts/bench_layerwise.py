"""The cost of the layerwise engine: its speed as a share of the local engine's, spooling and parking included.

    python scripts/bench_layerwise.py [--widths 1000 2000] [--depth 6] [--rounds 5] [--threads 1 2]

Trains the digits through layers of one width, by both engines in turn, each run in a process of its own; examples a
second of whole runs (training and the evaluation at their end, without the start of Python), medians of the rounds.
Random negatives have chapters of 256 minibatches, hard ones of the lag, 48. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from arguments import positive
from rich.console import Console
from rich.table import Table

RUN = """
import json, sys, time
from ffpipe import override, recipe, train
config = override(recipe("digits"), json.loads(sys.argv[1]))
started = time.perf_counter()
result = train(config)
print(json.dumps({"seconds": time.perf_counter() - started, "digest": result.weights_sha256}))
"""
STEPS_AN_EPOCH = 14


def seconds(engine: str, width: int, depth: int, epochs: int, negatives: str, threads: int) -> tuple[float, str]:
    """Return the seconds of one run, and the digest of its weights."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        fields = {
            "training.dims": [64, *[width] * depth],
            "training.batch_size": 100,
            "training.epochs": epochs,
            "training.negatives": negatives,
            "training.negative_lag": 48,
            "training.head_from": max(0, depth - 3),
            "training.goodness_from": min(1, depth - 1),
            "execution.engine": engine,
            "execution.stages": 0,
            "execution.evaluate_every": 0,
            "execution.run_dir": f"{folder}/run",
        }
        command = [sys.executable, "-c", RUN, json.dumps(fields)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{engine}, width {width}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], told["digest"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=positive, nargs="+", default=[1000, 2000])
    parser.add_argument("--depth", type=positive, default=6)
    parser.add_argument("--epochs", type=positive, default=20)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2])
    options = parser.parse_args()
    table = Table("width", "threads", "negatives", "local examples/s", "layerwise examples/s", "share")
    shares = {}
    for width in options.widths:
        for threads in options.threads:
            for negatives in ("random", "hard"):
                epochs = max(2, options.epochs * 1_000_000 // width**2)
                times: dict[str, list[float]] = {"local": [], "layerwise": []}
                digests = set()
                for _ in range(options.rounds):
                    for engine, taken in times.items():
                        took, digest = seconds(engine, width, options.depth, epochs, negatives, threads)
                        taken.append(took)
                        digests.add(digest)
                if len(digests) != 1:
                    sys.exit(f"width {width}: the engines made different weights")
                rates = {e: epochs * STEPS_AN_EPOCH * 100 / statistics.median(t) for e, t in times.items()}
                share = rates["layerwise"] / rates["local"]
                shares[f"{width}, {threads} threads, {negatives}"] = round(share, 3)
                row = [f"{rates[engine]:,.0f}" for engine in times]
                table.add_row(str(width), str(threads), negatives, *row, f"{share:.3f}")
    Console().print(table)
    print(json.dumps({"benchmark": "layerwise", "depth": options.depth, "shares": shares}))


if __name__ == "__main__":
    main()

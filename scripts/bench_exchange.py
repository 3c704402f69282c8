"""Milliseconds to add up a gradient over the replicas of a stage on one host: shared memory, and Ray's collectives.

    python scripts/bench_exchange.py [--replicas 2 4] [--numbers 90000 1000000] [--rounds 5]

Shared memory is what ffpipe uses; Ray's collectives are `ray.util.collective` with Gloo, which adds up in place
and in an order of its own. Every replica is a Ray actor of one thread. Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid
from typing import Any

import ray
import torch
from arguments import positive
from ray.util import collective
from ray.util.collective.types import Backend
from rich.console import Console
from rich.table import Table

from ffpipe.pipeline.reducer import Reducer
from ffpipe.pipeline.shared_sums import SharedSums

WAYS = ("shared memory", "Ray's collectives")
# Exchanges of one measurement.
CALLS = 40


class Replica:
    """One process that has a gradient."""

    def __init__(self, replica: int, replicas: int, channel: str) -> None:
        torch.set_num_threads(1)
        others = [each for each in range(replicas) if each != replica]
        self._replica = replica
        self._reducer = Reducer(replica, replicas, lambda number, name, sums: self._shared.send(number, name, sums))
        self._shared = SharedSums(channel, replica, others, self._reducer.put, self._reducer.fail)

    def join(self, replicas: int) -> None:
        collective.init_collective_group(replicas, self._replica, backend=Backend("gloo"), group_name="replicas")

    def exchange(self, way: str, numbers: int) -> tuple[float, float]:
        """Return the milliseconds of an exchange, and one of the sums."""
        gradient = torch.full((numbers,), self._replica + 1.0)
        start = time.perf_counter()
        for _ in range(CALLS):
            if way == WAYS[0]:
                (whole,) = self._reducer("gradient", [gradient])
            else:
                whole = gradient.clone()  # what is summed is needed no more in training, but here for the next call
                collective.allreduce(whole, group_name="replicas")
        return (time.perf_counter() - start) / CALLS * 1e3, float(whole[-1])


def measure(replicas: int, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each size, of medians over rounds; ways take turns."""
    channel = uuid.uuid4().hex
    kind: Any = ray.remote(num_cpus=0)(Replica)
    group = [kind.remote(replica, replicas, channel) for replica in range(replicas)]
    ray.get([each.join.remote(replicas) for each in group], timeout=120)
    rows: list[dict[str, Any]] = []
    for numbers in sizes:
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                results = ray.get([each.exchange.remote(way, numbers) for each in group], timeout=300)
                wrong = {total for _, total in results} - {sum(range(1, replicas + 1))}
                if wrong:
                    raise SystemExit(f"{way}: {wrong} is not the sum over {replicas} replicas")
                found[way].append(max(took for took, _ in results))
        medians = {way: statistics.median(each) for way, each in found.items()}
        rows.append({"replicas": replicas, "numbers": numbers} | medians)
    for each in group:
        ray.kill(each)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", type=int, choices=(2, 4, 8), nargs="+", default=[2, 4])
    parser.add_argument("--numbers", type=positive, nargs="+", default=[10_000, 90_000, 1_000_000, 4_000_000])
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    try:
        rows = [row for replicas in options.replicas for row in measure(replicas, options.numbers, options.rounds)]
    finally:
        ray.shutdown()
    table = Table("replicas", "numbers", *(f"{way}, ms" for way in WAYS))
    for row in rows:
        table.add_row(str(row["replicas"]), f"{row['numbers']:,}", *(f"{row[way]:.2f}" for way in WAYS))
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "exchange", "rows": rows}))


if __name__ == "__main__":
    main()

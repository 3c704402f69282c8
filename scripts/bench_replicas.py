"""Rates of one block that is replicated, of a set time a minibatch without a processor, as on GPUs, through Ray.

    python scripts/bench_replicas.py [--replicas 1 2 4] [--milliseconds 80] [--steps 60] [--rounds 3]

A replica sleeps its share of the milliseconds, then exchanges a gradient of 90,000 numbers with the others. `speed_up`
is the rate over that of the fewest replicas, at best their number over these. Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from arguments import above_0, natural, positive
from rich.console import Console
from rich.table import Table
from set_time import SetTimeEngine, make_job, run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", type=int, choices=(1, 2, 4, 8), nargs="+", default=[1, 2, 4])
    parser.add_argument("--milliseconds", type=above_0, default=80.0)
    parser.add_argument("--steps", type=positive, default=60)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--chunk", type=natural, default=0)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {replicas: [] for replicas in options.replicas}
    shards = max(options.replicas)
    for replicas in options.replicas:
        engine = SetTimeEngine(options.milliseconds / 1e3)
        try:
            job = make_job(1, options.steps, replicas=replicas, shards=shards, chunk=options.chunk)
            layout = engine.layout(job)
            for _ in range(options.rounds):
                took = run(engine, job, layout)
                rates[replicas].append(options.steps / took["last"])
        finally:
            engine.close()
    medians = {replicas: statistics.median(found) for replicas, found in rates.items()}
    first = min(medians)
    table = Table("replicas", "minibatches/s", "least", "most", "speed-up")
    rows: list[dict[str, Any]] = []
    for replicas, found in rates.items():
        speed_up = medians[replicas] / medians[first]
        table.add_row(str(replicas), *(f"{x:.2f}" for x in (medians[replicas], min(found), max(found), speed_up)))
        rows.append({"replicas": replicas, "rate": medians[replicas], "speed_up": speed_up})
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "replicas", "milliseconds": options.milliseconds, "shards": shards, "rows": rows}))


if __name__ == "__main__":
    main()

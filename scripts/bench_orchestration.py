"""What the pipeline itself costs: stages that take a set time without a processor, as on GPUs, and send real arrays.

    python scripts/bench_orchestration.py [--stages 2 4 8 16 32] [--milliseconds 20] [--steps 300] [--rounds 5]

Every stage is an actor that sleeps 20 ms a minibatch and sends on a real array of 1.2 MB (300 rows of 1000
float32) through Ray, by the worker, inbox, window and publisher of a real run. `efficiency` is the throughput
as a share of the slowest stage's rate (1 / 20 ms): in steady state (between the last stage's first and last
minibatch), and `whole` with filling and draining. Hard negatives go back to the source under a window of `--lag`
minibatches; random ones under the window that the run chooses. Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from arguments import positive
from rich.console import Console
from rich.table import Table
from set_time import SetTimeEngine, make_job, run

from ffpipe.planning.layout import make_layout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", type=positive, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--milliseconds", type=float, default=20.0)
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--lag", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--trace", type=Path, help="write the last runs here, as FILE-RULE-STAGES.json")
    options = parser.parse_args()
    table = Table("stages", "negatives", "chunk", "window", "steady", "least", "most", "whole", "driver", "publishing")
    rows: list[dict[str, Any]] = []
    for stages in options.stages:
        engine = SetTimeEngine(options.milliseconds / 1e3)
        try:
            jobs = {
                rule: make_job(
                    stages,
                    options.steps,
                    negatives=rule,
                    lag=options.lag,
                    chunk=options.chunk,
                    trace=options.trace is not None,
                )
                for rule in ("random", "hard")
            }
            first = engine.layout(jobs["random"])
            layouts = {"random": first, "hard": make_layout(jobs["hard"], stages, engine.measure(jobs["hard"]))}
            found: dict[str, list[dict[str, float]]] = {rule: [] for rule in jobs}
            for _ in range(options.rounds):
                for rule, job in jobs.items():
                    name = options.trace and options.trace.with_name(f"{options.trace.name}-{rule}-{stages}.json")
                    took = run(engine, job, layouts[rule], name or None)
                    needed = job.steps * engine.seconds
                    shares = {"steady": needed / took["last"], "whole": needed / took["whole"]}
                    found[rule].append(took | shares)
        finally:
            engine.close()
        for rule, values in found.items():
            middle = {key: statistics.median(v[key] for v in values) for key in values[0]}
            steady = [value["steady"] for value in values]
            layout = layouts[rule]
            table.add_row(
                str(stages),
                rule,
                str(layout.plan.chunk),
                str(layout.window),
                *(f"{x:.3f}" for x in (middle["steady"], min(steady), max(steady), middle["whole"])),
                f"{middle['driver']:.1%}",
                f"{middle['publish']:.1%}",
            )
            sizes = {"stages": stages, "negatives": rule, "chunk": layout.plan.chunk, "window": layout.window}
            rows.append({**sizes, "efficiency": middle["steady"], **{k: v for k, v in middle.items() if k != "steady"}})
    Console(width=120).print(table)
    print(
        json.dumps(
            {"benchmark": "orchestration", "milliseconds": options.milliseconds, "lag": options.lag, "rows": rows}
        )
    )


if __name__ == "__main__":
    main()

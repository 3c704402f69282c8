"""The cost of the pipeline itself: stages that take a set time without a processor, as on GPUs, and send real arrays.

    python scripts/bench_orchestration.py [--stages 2 4 8 16 32] [--milliseconds 20] [--steps 300] [--rounds 5]
    python scripts/bench_orchestration.py --milliseconds 60 --after 40 [--stages 16 32]      results that leave early

Every stage is an actor that sleeps 20 ms a minibatch and sends on a real array of 1.2 MB (300 rows of 1000
float32) through Ray, by the worker, inbox, window and publisher of a real run. `efficiency` is the throughput
as a share of the slowest stage's rate (1 / 20 ms): in steady state (between the last stage's first and last
minibatch), and `whole` with filling and draining. Hard negatives go back to the source under a window of `--lag`
minibatches; random ones under the window that the run chooses.

With `--after`, a stage has its result so many milliseconds before it is through with a minibatch, as before a backward
pass, and rounds in which results leave then are interleaved with rounds in which they wait for the end ("late"). `fill`
is from the first stage's first minibatch to the last stage's, `drain` from the one's last to the other's, in seconds.
Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from arguments import above_0, from_0, natural, positive
from rich.console import Console
from rich.table import Table
from set_time import SetTimeEngine, make_job, run

from ffpipe.planning.layout import make_layout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", type=positive, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--milliseconds", type=above_0, default=20.0)
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--lag", type=positive, default=128)
    parser.add_argument("--after", type=from_0, default=0.0, help="of a minibatch, milliseconds with its result there")
    parser.add_argument("--chunk", type=natural, default=0)
    parser.add_argument("--trace", type=Path, help="write the last runs here, as FILE-RULE-STAGES.json")
    options = parser.parse_args()
    if options.after > options.milliseconds:
        parser.error(f"--after is {options.after:g}: give at most --milliseconds, {options.milliseconds:g}")
    names = ("negatives", "leaves", "chunk", "window", "steady", "least", "most", "whole", "fill", "drain", "driver")
    table = Table("stages", *names, "publishing")
    rows: list[dict[str, Any]] = []
    for stages in options.stages:
        engine = SetTimeEngine(options.milliseconds / 1e3, options.after / 1e3)
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
            ways = [(rule, early) for rule in jobs for early in ((False, True) if options.after else (False,))]
            found: dict[tuple[str, bool], list[dict[str, float]]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for rule, early in ways:
                    job, name = jobs[rule], None
                    if options.trace:
                        name = options.trace.with_name(f"{options.trace.name}-{rule}-{stages}.json")
                    layout = replace(layouts[rule], leaves_early=early and layouts[rule].leaves_early)
                    took = run(engine, job, layout, name)
                    needed = job.steps * engine.seconds
                    shares = {"steady": needed / took["last"], "whole": needed / took["whole"]}
                    found[rule, early].append(took | shares)
        finally:
            engine.close()
        for (rule, early), values in found.items():
            middle = {key: statistics.median(v[key] for v in values) for key in values[0]}
            steady = [value["steady"] for value in values]
            layout = layouts[rule]
            leaves = "early" if early and layout.leaves_early else "late"
            table.add_row(
                str(stages),
                rule,
                leaves,
                str(layout.plan.chunk),
                str(layout.window),
                *(f"{x:.3f}" for x in (middle["steady"], min(steady), max(steady), middle["whole"])),
                *(f"{middle[key]:.2f}" for key in ("fill", "drain")),
                f"{middle['driver']:.1%}",
                f"{middle['publish']:.1%}",
            )
            sizes = {"stages": stages, "negatives": rule, "leaves": leaves, "chunk": layout.plan.chunk}
            sizes |= {"window": layout.window}
            rows.append({**sizes, "efficiency": middle["steady"], **{k: v for k, v in middle.items() if k != "steady"}})
    Console(width=140).print(table)
    asked = {"milliseconds": options.milliseconds, "after": options.after, "lag": options.lag}
    print(json.dumps({"benchmark": "orchestration", **asked, "rows": rows}))


if __name__ == "__main__":
    main()

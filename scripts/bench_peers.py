"""ffpipe beside what people would use instead, on the same cores: backpropagation in one process, by data parallelism,
and through the pipelines of torch.distributed (GPipe, 1F1B, interleaved 1F1B).

    python scripts/bench_peers.py [--networks dense dense-2000 dgl] [--stages 2 4] [--rounds 3] [--error 2.5]
    python scripts/bench_peers.py --ff-py FOLDER [--rounds 3]
    python scripts/bench_peers.py --set-time [--stages 4 8 16] [--steps 60] [--rounds 3]

The networks are those of peer_networks.py, on MNIST or CIFAR-10 (FFPIPE_DATA names a folder with copies): the very
modules of ffpipe's blocks, trained end to end by all others and by local objectives here, with the same optimiser (for
dense layers Adam, fused) and an allocator that keeps what steps free. Every process has one thread unless its name says
two. A pipeline gets the number of microbatches that is best for it among `--microbatches`. Rounds of all contenders are
interleaved, and figures are medians. For all contenders

    examples/s   of all minibatches of training behind three that warm up (ffpipe: behind the message that has these)
    busy         the CPU time of a stage or rank while it trains, over the time of training; the mean of all of them
    stage        the most memory (PSS) that the process of one stage or rank had, from its start to its end
    largest      the most that any process had, ffpipe's driver among them
    all          the most that all had at once: stages or ranks, the driver, Ray's own processes, the object store; all
                 three are of one more run, which is not timed, since looking takes time
    messages     what stages or ranks send each other a minibatch: packets and answers here, activities and gradients of
                 a microbatch in a pipeline, buckets of gradients that a rank has summed, buffers that it hands out
    s to N %     with --error, below

With --error PERCENT each way to learn (class heads, hard negatives, backpropagation end to end) is trained besides, at
most --epochs, until that many of 5,000 validation images are wrong: with the rates that tells after how many seconds
each contender is there; "> 90": it was not after so many seconds.

With --ff-py FOLDER, a copy of ff-py with its MNIST: seconds of an epoch of its NumPy program, and of its JAX program
where JAX is there, beside `hinton-exact`.

With --set-time stages take 20 ms forward and 40 ms backward without a processor, as on devices of their own, and hand
on real arrays: what is left is the bubble. `share` is the rate as a share of the slowest stage's; `formula` what the
schedule can reach: m / (m + p - 1) for GPipe and 1F1B with m microbatches on p stages, 1 without a backward pass.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import peer_ff_py
from arguments import from_0, positive
from peer_networks import BATCH, NETWORKS
from peer_runs import Contender, Figures, contenders, memory_of, output, peer_commands, refusal, run
from process_tree import PROC
from rich.console import Console
from rich.table import Table

from ffpipe.system.errors import UserError

FORWARD, BACKWARD = 0.020, 0.040
EPOCHS = """
import json, sys, tempfile
from peer_networks import BATCH, learning
from ffpipe import train
name, kind, epochs, error = json.loads(sys.argv[1])
with tempfile.TemporaryDirectory(prefix="ff-") as folder:
    summary = train(learning(name, kind, epochs, folder + "/run")).summary
found = [e["errors"]["last"] if e["error_goodness"] is None else e["error_goodness"]
         for e in summary["evaluations"] if e["split"] == "validation"]
there = [epoch for epoch, each in enumerate(found, 1) if each <= error]
one = summary["steps"] // epochs * BATCH
print(json.dumps({"examples": one * (there or [epochs])[0], "there": bool(there), "errors": found}))
"""
TIMED = """
import json, sys
from set_time import SetTimeEngine, make_job, run
stages, steps, forward, backward = json.loads(sys.argv[1])
engine = SetTimeEngine(forward + backward, backward)
job = make_job(stages, steps)
layout = engine.layout(job)
took = run(engine, job, layout)
engine.close()
print(json.dumps({"steady": steps * (forward + backward) / took["last"],
                  "whole": steps * (forward + backward) / took["whole"], "chunk": layout.plan.chunk}))
"""


def best_of(found: dict[str, list[Figures]]) -> dict[str, list[Figures]]:
    """Return the runs of each contender, and of a pipeline those with the best number of microbatches."""
    best: dict[str, str] = {}
    for name, runs in found.items():
        way = name.rpartition(", ")[0] if "microbatches" in name else name
        if way not in best or _rate(runs) > _rate(found[best[way]]):
            best[way] = name
    return {name: found[name] for name in best.values()}


def _rate(runs: list[Figures]) -> float:
    return statistics.median(each.rate for each in runs)


def seconds_to_error(needed: dict[str, Any], rate: float) -> str:
    """Return how many seconds that many examples take, or more than how many were tried."""
    return f"{'' if needed['there'] else '> '}{needed['examples'] / rate:,.0f}"


def examples_to_error(network: str, ways: list[Contender], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return how many examples each way to learn takes to come to the validation error, or how many were tried."""
    found = {}
    for kind in sorted({way.learns for way in ways}):
        asked = json.dumps([network, kind, options.epochs, options.error / 100])
        found[kind] = json.loads(output([["-c", EPOCHS, asked]], kind)[0])
        print(f"{network}, {kind}: validation errors {found[kind]['errors']}")
    return found


def compare(network: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Time all contenders on a network, and print the table."""
    ways = {
        way.name: way
        for stages in options.stages or [2]
        for way in contenders(network, stages, options.microbatches)
        if any(part in way.name for part in options.ways)
    }
    needed = examples_to_error(network, list(ways.values()), options) if options.error else {}
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            found[name].append(run(way, network, options.steps))
            # All in all it takes a quarter of an hour and more: what was measured by then is not lost with a run.
            print(f"{network}, {name}: {found[name][-1].rate:,.0f} examples/s", file=sys.stderr, flush=True)
    last = [f"s to {options.error:g} %"] if options.error else []
    memory = ("stage, MB", "largest process, MB", "all, MB")
    table = Table(network, "examples/s", "busy", *memory, "messages a minibatch", *last)
    told: dict[str, dict[str, Any]] = {}
    for name, runs in best_of(found).items():
        rate, watch = _rate(runs), memory_of(ways[name], network, options.steps)
        busy, held = statistics.median(each.busy for each in runs), (watch.titled, watch.largest, watch.whole)
        sizes = [round(each / 1e6) for each in held]
        cells = [f"{rate:,.0f}", f"{busy:.0%}", *(f"{size:,}" for size in sizes), f"{runs[0].messages:.3g}"]
        seconds = [seconds_to_error(needed[ways[name].learns], rate)] if options.error else []
        table.add_row(name, *cells, *seconds)
        told[name] = {
            "rate": round(rate, 1),
            "busy": round(busy, 3),
            **dict(zip(("stage_mb", "largest_mb", "all_mb"), sizes, strict=True)),
            "messages": runs[0].messages,
            "seconds": "".join(seconds),
        }
    Console(width=140).print(table)
    return told


def compare_bubbles(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time stages that take a set time, and print the table."""
    rows: list[dict[str, Any]] = []
    table = Table("stages", "contender", "microbatches", "share", "formula")
    for stages in options.stages or [4, 8, 16]:
        found: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for way in ("gpipe", "1f1b"):
                for count in (stages, 2 * stages, 4 * stages):  # with fewer than stages there is no full pipeline
                    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
                        asked = {
                            "way": way, "world": stages, "place": f"{folder}/meet", "steps": options.steps,
                            "microbatches": count, "batch": BATCH, "seconds": [FORWARD, BACKWARD],
                        }  # fmt: skip
                        rate = min(json.loads(line)["rate"] for line in output(peer_commands(asked), way))
                    found.setdefault((way, count), []).append(rate * (FORWARD + BACKWARD) / BATCH)
                    print(f"{stages} stages, {way}, {count} microbatches: {found[way, count][-1]:.3f}", file=sys.stderr)
            asked_of = json.dumps([stages, options.steps, FORWARD, BACKWARD])
            told = json.loads(output([["-c", TIMED, asked_of]], "ffpipe")[0])
            found.setdefault(("ffpipe, full", 1), []).append(told["steady"])
            found.setdefault(("ffpipe, with filling and draining", 1), []).append(told["whole"])
        for (way, count), shares in found.items():
            ours = way.startswith("ffpipe")
            formula = 1.0 if ours else count / (count + stages - 1)
            share = statistics.median(shares)
            table.add_row(str(stages), way, "-" if ours else str(count), f"{share:.3f}", f"{formula:.3f}")
            rows.append({"stages": stages, "way": way, "microbatches": count, "share": round(share, 4)})
    Console(width=140).print(table)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--set-time", action="store_true", help="stages that take a set time in place of networks")
    parser.add_argument("--stages", type=positive, nargs="+", help="by default 2; with --set-time 4 8 16")
    parser.add_argument("--ff-py", type=Path, metavar="FOLDER", help="a copy of ff-py, timed beside hinton-exact")
    parser.add_argument("--ways", nargs="+", default=[""], metavar="PART", help="those whose names have such a part")
    parser.add_argument("--microbatches", type=positive, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--error", type=from_0, default=0.0, help="validation error in percent; 0: not asked for")
    parser.add_argument("--epochs", type=positive, default=6, help="the most in which that error is to be reached")
    options = parser.parse_args()
    if wrong := [count for count in options.microbatches if count < 2 or BATCH % count]:
        parser.error(f"--microbatches {wrong[0]}: minibatches of {BATCH} are cut into equal parts: give 2, 4, 8, ...")
    if options.set_time:
        print(json.dumps({"benchmark": "peers", "set time": compare_bubbles(options)}))
        return
    if options.ff_py:
        try:
            told = peer_ff_py.compare(options.ff_py, options.rounds)
        except UserError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            sys.exit(2)
        print(json.dumps({"benchmark": "peers", "ff-py": told}))
        return
    for network, stages in itertools.product(options.networks, options.stages or ()):
        if why := refusal(network, stages):
            parser.error(why)
    if not (PROC / "self" / "smaps_rollup").exists():
        parser.error("memory is read from /proc/PID/smaps_rollup, which is not here: run it on Linux")
    for network, part in itertools.product(options.networks, options.ways):
        names = [
            way.name for stages in options.stages or [2] for way in contenders(network, stages, options.microbatches)
        ]
        if not any(part in name for name in names):
            parser.error(f"--ways {part!r}: none of {network} is called so: {'; '.join(names)}")
    found = {network: compare(network, options) for network in options.networks}
    print(json.dumps({"benchmark": "peers", "steps": options.steps, "networks": found}))


if __name__ == "__main__":
    main()

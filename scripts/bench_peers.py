"""ffpipe beside what people would use instead, on the same cores: backpropagation in one process, by data parallelism,
and through the pipelines of torch.distributed (GPipe, 1F1B, interleaved 1F1B).

    python scripts/bench_peers.py [--networks dense dense-2000 dgl] [--steps 100] [--rounds 3] [--error 2.5]
    python scripts/bench_peers.py --set-time [--stages 4 8 16] [--steps 60] [--rounds 3]

The networks are those of peer_networks.py, on MNIST or CIFAR-10 (FFPIPE_DATA names a folder with copies): the very
modules of ffpipe's blocks, trained end to end by all others and by local objectives here, with the same optimiser (for
dense layers Adam, fused) and an allocator that keeps what steps free. Every process has one thread unless its name says
two. A pipeline gets the number of microbatches that is best for it among `--microbatches`. Rounds of all contenders are
interleaved, and figures are medians: examples a second of all steps, the share of its time in which the busiest process
computed, peak bytes of the largest process and of all of them, and messages a minibatch.

With --set-time stages take 20 ms forward and 40 ms backward without a processor, as on devices of their own, and hand
on real arrays: what is left is the bubble. `share` is the rate as a share of the slowest stage's; `formula` what the
schedule can reach: m / (m + p - 1) for GPipe and 1F1B with m microbatches on p stages, 1 without a backward pass.

With --error PERCENT each way to learn (class heads, hard negatives, backpropagation end to end) is trained besides, at
most --epochs, until that many of 5,000 validation images are wrong: with the rates that tells after how many seconds
each contender is there. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arguments import positive
from peer_networks import BATCH, NETWORKS, WIDTHS
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
FORWARD, BACKWARD = 0.020, 0.040
SECONDS = 1200.0
RUN = """
import json, sys, time
from peer_networks import BATCH, config_of, contrasting
from ffpipe import override, train
name, kind, steps, fields = json.loads(sys.argv[1])
made = (config_of if kind == "heads" else contrasting)(name, steps)
summary = train(override(made, fields)).summary
busy = max(shares.get("compute", 0.0) for shares in summary["time_shares"])
print(json.dumps({"rate": summary["examples_per_second"], "busy": busy, "peaks": summary["peak_rss_bytes"],
                  "chunk": summary["chunk"]}))
"""
EPOCHS = """
import json, sys, tempfile
from peer_networks import learning
from ffpipe import train
name, kind, epochs, error = json.loads(sys.argv[1])
with tempfile.TemporaryDirectory(prefix="ff-") as folder:
    summary = train(learning(name, kind, epochs, folder + "/run")).summary
found = [e["errors"]["last"] if e["error_goodness"] is None else e["error_goodness"]
         for e in summary["evaluations"] if e["split"] == "validation"]
there = [epoch for epoch, each in enumerate(found, 1) if each <= error]
print(json.dumps({"examples": there[0] * summary["steps"] // epochs * 128 if there else None, "errors": found}))
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


@dataclass(frozen=True)
class Contender:
    """One way to train. peer: what scripts/peer.py is asked for; None: ffpipe, with a config of `kind` and `fields`."""

    name: str
    peer: dict[str, Any] | None = None
    kind: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    messages: float = 0.0

    @property
    def learns(self) -> str:
        """How it learns: "backprop", "heads" or "contrast"."""
        return self.kind or "backprop"


@dataclass(frozen=True)
class Figures:
    """The figures of one run."""

    rate: float
    busy: float
    peaks: list[int]
    messages: float


def contenders(network: str, microbatches: list[int]) -> list[Contender]:
    """Return all ways to train a network."""
    found = [
        Contender("one process", {"way": "one", "world": 1}),
        Contender("one process, 2 threads", {"way": "one", "world": 1, "threads": 2}),
        Contender("data parallel, 2 processes", {"way": "ddp", "world": 2}),
    ]
    for way, name, parts in (("gpipe", "GPipe", 2), ("1f1b", "1F1B", 2), ("interleaved", "interleaved 1F1B", 4)):
        for count in microbatches:
            if way != "interleaved" or count % 2 == 0:
                asked = {"way": way, "world": 2, "microbatches": count}
                found.append(Contender(f"{name}, {count} microbatches", asked, messages=2.0 * (parts - 1) * count))
    two = {"execution.engine": "ray", "execution.stages": 2}
    found.append(Contender("ffpipe, class heads, 2 stages", kind="heads", fields=two))
    found.append(Contender("ffpipe, class heads, one process", kind="heads", fields={"execution.engine": "local"}))
    if network in WIDTHS:
        found.append(Contender("ffpipe, hard negatives, 2 stages", kind="contrast", fields=two))
    return found


def run(contender: Contender, network: str, steps: int, folder: str) -> Figures:
    """Train so many steps. Ends the program with what was said where that fails."""
    if contender.peer is None:
        fields = {"execution.stages": 1, **contender.fields, "execution.run_dir": f"{folder}/run"}
        told = json.loads(
            output([["-c", RUN, json.dumps([network, contender.kind, steps, fields])]], contender.name)[0]
        )
        messages = 1.0 / told["chunk"] if len(told["peaks"]) > 1 else 0.0
        return Figures(told["rate"], told["busy"], told["peaks"], messages)
    asked = {"place": f"{folder}/meet", "steps": steps, "network": network, "batch": BATCH, **contender.peer}
    each = [json.loads(line) for line in peers(asked, contender.name)]
    return Figures(
        min(one["rate"] for one in each), max(one["busy"] for one in each), [one["peak"] for one in each],
        contender.messages,
    )  # fmt: skip


def peers(asked: dict[str, Any], name: str) -> list[str]:
    """Run, and return the last line of each process of a contender that is not ffpipe."""
    commands = [[str(HERE / "peer.py"), json.dumps(asked), str(rank)] for rank in range(asked["world"])]
    return output(commands, name)


def output(commands: list[list[str]], name: str) -> list[str]:
    """Run Python processes side by side on loopback; returns the last line of each."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    threads = "2" if "2 threads" in name else "1"
    environment = os.environ | {"PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": threads}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    running = [subprocess.Popen([sys.executable, *command], **pipes) for command in commands]
    lines = []
    try:
        for process in running:
            said, wrong = process.communicate(timeout=SECONDS)
            if process.returncode:
                sys.exit(f"{name}: {(wrong.strip().splitlines() or ['failed'])[-1]}")
            lines.append(said.strip().splitlines()[-1])
    finally:
        for process in running:
            process.kill()
            process.wait()
    return lines


def best_of(found: dict[str, list[Figures]]) -> dict[str, list[Figures]]:
    """Return the runs of each contender, and of a pipeline those with the best number of microbatches."""
    best: dict[str, str] = {}
    for name, runs in found.items():
        way = name.split(", ")[0] if "microbatches" in name else name
        if way not in best or _rate(runs) > _rate(found[best[way]]):
            best[way] = name
    return {name: found[name] for name in best.values()}


def _rate(runs: list[Figures]) -> float:
    return statistics.median(each.rate for each in runs)


def examples_to_error(network: str, ways: list[Contender], options: argparse.Namespace) -> dict[str, float | None]:
    """Return how many examples each way to learn takes to come to the validation error; None: more than were tried."""
    found = {}
    for kind in sorted({way.learns for way in ways}):
        asked = json.dumps([network, kind, options.epochs, options.error / 100])
        told = json.loads(output([["-c", EPOCHS, asked]], kind)[0])
        print(f"{network}, {kind}: validation errors {told['errors']}")
        found[kind] = told["examples"]
    return found


def compare(network: str, options: argparse.Namespace) -> dict[str, dict[str, float | None]]:
    """Time all contenders on a network, and print the table."""
    ways = contenders(network, options.microbatches)
    learns = {way.name: way.learns for way in ways}
    needed = examples_to_error(network, ways, options) if options.error else {}
    found: dict[str, list[Figures]] = {way.name: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            with tempfile.TemporaryDirectory(prefix="ff-") as folder:
                found[way.name].append(run(way, network, options.steps, folder))
    last = [f"s to {options.error:g} %"] if options.error else []
    table = Table(network, "examples/s", "busiest", "largest process, MB", "all, MB", "messages a minibatch", *last)
    told: dict[str, dict[str, float | None]] = {}
    for name, runs in best_of(found).items():
        largest = statistics.median(max(each.peaks) for each in runs) / 1e6
        whole = statistics.median(sum(each.peaks) for each in runs) / 1e6
        busy = statistics.median(each.busy for each in runs)
        examples = needed.get(learns[name])
        seconds = None if examples is None else examples / _rate(runs)
        cells = [f"{_rate(runs):,.0f}", f"{busy:.0%}", f"{largest:,.0f}", f"{whole:,.0f}", f"{runs[0].messages:g}"]
        table.add_row(name, *cells, *(["-" if seconds is None else f"{seconds:,.0f}"] if options.error else []))
        told[name] = {
            "rate": round(_rate(runs), 1),
            "busy": round(busy, 3),
            "largest_mb": round(largest),
            "all_mb": round(whole),
            "seconds": seconds and round(seconds, 1),
        }
    Console(width=140).print(table)
    return told


def compare_bubbles(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time stages that take a set time, and print the table."""
    rows: list[dict[str, Any]] = []
    table = Table("stages", "contender", "microbatches", "share", "formula")
    for stages in options.stages:
        found: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for way in ("gpipe", "1f1b"):
                for count in (stages, 2 * stages, 4 * stages):  # with fewer than stages there is no full pipeline
                    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
                        asked = {
                            "way": way, "world": stages, "place": f"{folder}/meet", "steps": options.steps,
                            "microbatches": count, "batch": BATCH, "seconds": [FORWARD, BACKWARD],
                        }  # fmt: skip
                        rate = min(json.loads(line)["rate"] for line in peers(asked, way))
                    found.setdefault((way, count), []).append(rate * (FORWARD + BACKWARD) / BATCH)
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
    parser.add_argument("--stages", type=positive, nargs="+", default=[4, 8, 16])
    parser.add_argument("--microbatches", type=positive, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--error", type=float, default=0.0, help="validation error in percent; 0: not asked for")
    parser.add_argument("--epochs", type=positive, default=6, help="the most in which that error is to be reached")
    options = parser.parse_args()
    if options.set_time:
        print(json.dumps({"benchmark": "peers", "set time": compare_bubbles(options)}))
        return
    told = {network: compare(network, options) for network in options.networks}
    print(json.dumps({"benchmark": "peers", "steps": options.steps, "networks": told}))


if __name__ == "__main__":
    main()

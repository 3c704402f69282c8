"""Costs and savings of local training beside backpropagation of the same blocks: examples a second, and peak memory.

    python scripts/bench_twins.py [RECIPE ...] [--steps 60] [--rounds 3] [--parts 4]

Each way trains the same blocks on the same data in the same minibatches, by `ffpipe.train` in processes of its own:

    two stages        local objectives, two Ray actors of one thread each
    one process       local objectives, engine local, on one thread and on two
    layerwise         local objectives, one stage of one block in memory at a time
    backpropagation   end to end by the last block's head, on one thread and on two; with activation checkpointing;
                      and with the gradients of `--parts` parts of each minibatch summed

Rounds of all ways are interleaved; figures are medians. Examples a second are those of training alone, as in
summary.json. Memory is the peak of the largest stage of the run, and of all stages together (not of the driver and
Ray's own processes), less what a process has that has imported torch and the package and done nothing. Errors after
full runs are in the table of results. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from arguments import positive
from rich.console import Console
from rich.table import Table

from ffpipe.config.recipes import RECIPES as ALL

RECIPES = ("mono-forward", "dgl", "cifar10-local", "char-lm")
RUN = """
import json, sys
from ffpipe import override, recipe, train
from ffpipe.planning.estimate import bare_process
name, fields = json.loads(sys.argv[1])
config = override(recipe(name), fields)
bare = bare_process(config) if config.execution.engine == "local" else 0
summary = train(config).summary
print(json.dumps({"rate": summary["examples_per_second"], "peaks": summary["peak_rss_bytes"], "bare": bare}))
"""


@dataclass(frozen=True)
class Way:
    """One way to train the blocks of a recipe. fields: on top of the recipe. threads: of the process or of each stage;
    of blocks by autograd too."""

    name: str
    fields: dict[str, Any]
    threads: int = 1


@dataclass(frozen=True)
class Run:
    """Examples a second of one run, and peak bytes of each of its stages. at_once: whether these run side by side."""

    rate: float
    peaks: list[int]
    bare: int
    at_once: bool = True

    def together(self, bare: int) -> int:
        """Return the peak of all stages, less what their processes have anyway."""
        return sum(self.peaks) - bare * len(self.peaks) if self.at_once else max(self.peaks) - bare


def ways(parts: int) -> list[Way]:
    """Return all ways. parts: of a minibatch, in the way that sums their gradients."""
    local, backprop = {"execution.engine": "local"}, {"training.method": "backprop"}
    return [
        Way("local objectives, two stages", {"execution.engine": "ray", "execution.stages": 2}),
        Way("local objectives, one process", local),
        Way("local objectives, one process, 2 threads", local, 2),
        Way("local objectives, layerwise", {"execution.engine": "layerwise", "execution.stages": 0}),
        Way("backpropagation", backprop),
        Way("backpropagation, 2 threads", backprop, 2),
        Way("backpropagation, checkpointing", {**backprop, "training.checkpointing": True}),
        Way(f"backpropagation, {parts} parts", {**backprop, "training.accumulation": parts}),
    ]


def run(recipe: str, way: Way, steps: int) -> Run:
    """Train so many steps. Ends the program with what was said where a run fails."""
    from ffpipe import recipe as recipe_of

    batch = recipe_of(recipe).training.batch_size
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        fields = {
            "training.epochs": 1,
            "training.data.train_limit": steps * batch,
            "training.data.validation": 0,
            "training.threads": way.threads,
            "execution.evaluate_every": 0,
            "execution.snapshot_steps": 0,
            "execution.snapshot_seconds": 0,
            "execution.stages": 1,
            "execution.run_dir": f"{folder}/run",
            **way.fields,
        }
        done = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps([recipe, fields])],
            capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": str(way.threads)},
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{recipe}, {way.name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    # Layerwise, the stages follow each other in one process.
    at_once = fields.get("execution.engine") != "layerwise"
    return Run(**json.loads(done.stdout.splitlines()[-1]), at_once=at_once)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), help=f"recipes, by default {', '.join(RECIPES)}")
    parser.add_argument("--steps", type=positive, default=60)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--parts", type=positive, default=4, help="parts of a minibatch whose gradients are summed")
    options = parser.parse_args()
    if unknown := [name for name in options.recipes if name not in ALL]:
        parser.error(f"unknown recipe {unknown[0]!r}: give some of {', '.join(ALL)}")
    told: dict[str, dict[str, dict[str, float]]] = {}
    for recipe in options.recipes:
        found: dict[str, list[Run]] = {}
        for _ in range(options.rounds):
            for way in ways(options.parts):
                found.setdefault(way.name, []).append(run(recipe, way, options.steps))
        bare = max(each.bare for runs in found.values() for each in runs)
        table = Table(recipe, "examples/s", "largest stage, MB", "all stages, MB")
        told[recipe] = {}
        for name, runs in found.items():
            rate = statistics.median(each.rate for each in runs)
            largest = statistics.median(max(each.peaks) - bare for each in runs) / 1e6
            whole = statistics.median(each.together(bare) for each in runs) / 1e6
            table.add_row(name, f"{rate:,.0f}", f"{largest:,.0f}", f"{whole:,.0f}")
            told[recipe][name] = {"rate": round(rate, 1), "largest_mb": round(largest), "all_mb": round(whole)}
        Console().print(table)
    print(json.dumps({"benchmark": "twins", "steps": options.steps, "recipes": told}))


if __name__ == "__main__":
    main()

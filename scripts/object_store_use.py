"""The use of Ray's object store by runs, as Ray itself logs it, beside what was worked out before they began.

    python scripts/object_store_use.py [--fields JSON]

Trains the digits with a few networks, or with the fields given, each through a cluster of its own. Prints a table, and
last one line of JSON; exit status 1 where a run held more than was worked out, or where anything was spilled.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ffpipe import override, recipe, train
from ffpipe.pipeline.job import Job, Layout
from ffpipe.planning.memory import footprints
from ffpipe.runs.view import View

CASES: list[dict[str, Any]] = [
    {"training.dims": [64, 20000, 640], "execution.stages": 2, "execution.chunk": 3},
    {"training.dims": [64, 20000, 64], "execution.stages": 2, "execution.object_store_bytes": 80_000_000},
    {"training.dims": [64, 2000, 3000, 4000, 50], "execution.stages": 4, "execution.evaluate_every": 1},
    {"training.dims": [64, 5000, 5000, 300, 100], "execution.stages": 4, "training.precision": "bfloat16"},
    {"training.dims": [64, 5000, 5000, 100], "execution.stages": 3, "training.negative_lag": 0},
    {"training.dims": [64, 5000, 100], "execution.stages": 2, "training.batch_size": 2},
]


class StoreLog:
    """The log of the object store of a cluster of our own, in a file that goes with the cluster.

    temporary: a folder for the cluster's files, with a path short enough for its sockets. To be made before Ray starts.
    """

    def __init__(self, temporary: str) -> None:
        self._temporary = temporary
        os.environ.setdefault("RAY_event_stats_print_interval_ms", "20")
        tempfile.tempdir = temporary

    def read(self) -> dict[str, int]:
        """Return the most bytes held at once, the times that anything was spilled, and files used beside the store."""
        [path] = Path(self._temporary).glob("ffpipe-*/r/session_2*/logs/raylet.out")
        text = path.read_text()
        held = [int(n) for n in re.findall(r"^- bytes in use: (\d+)$", text, re.MULTILINE)]
        spilled = [int(n) for n in re.findall(r"- cumulative spill requests: (\d+)$", text, re.MULTILINE)]
        files = len(re.findall(r"create_and_mmap_buffer\(", text))
        return {"held": max(held), "spills": max(spilled), "files_beside": files - 1}


class Watch(View):
    """A view that keeps what was worked out, and reads the log while the cluster is still there."""

    def __init__(self, log: StoreLog) -> None:
        self.log = log
        self.found: dict[str, int] = {}

    def start(self, job: Job, layout: Layout, run_dir: Path, step: int) -> None:
        of_nodes = footprints(layout.stages, ["here"] * len(layout.stages))
        self.found = {
            "chunk": layout.plan.chunk,
            "window": layout.window,
            "worked_out": of_nodes["here"].held(layout.window),
        }

    def stop(self) -> None:
        self.found |= self.log.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fields", type=json.loads, help="dotted names and values, as a JSON object")
    options = parser.parse_args()
    table = Table("network", "stages", "chunk", "window", "MB worked out", "MB held", "spills")
    runs = []
    for fields in [options.fields] if options.fields else CASES:
        with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:
            watch = Watch(StoreLog(temporary))
            changes = {"training.epochs": 3, **fields, "execution.run_dir": f"{temporary}/run"}
            train(override(recipe("digits"), changes), watch)
        found = watch.found
        dims = "-".join(map(str, fields.get("training.dims", ["digits"])))
        sizes = (f"{found['worked_out'] / 1e6:.1f}", f"{found['held'] / 1e6:.1f}")
        stages, chunk, window = (str(n) for n in (fields["execution.stages"], found["chunk"], found["window"]))
        table.add_row(dims, stages, chunk, window, *sizes, str(found["spills"]))
        runs.append(found)
    Console().print(table)
    print(json.dumps({"benchmark": "object_store_use", "runs": runs}))
    wrong = [run for run in runs if run["held"] > run["worked_out"] or run["spills"] or run["files_beside"]]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

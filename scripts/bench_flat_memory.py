"""A test of whether a long run grows: private memory of the driver and of every stage, chunk by chunk.

    python scripts/bench_flat_memory.py [--chunks 2500]

Trains the digits through two Ray stages with one minibatch a message and prints resident anonymous memory (Linux,
/proc) after 500 chunks and at the end; `growth` in the last line, of JSON, is the largest increase in bytes. Exit
status 1 where Ray spilled anything or kept it beside the object store.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from arguments import positive
from object_store_use import StoreLog
from own_stages import own_stages
from rich.console import Console
from rich.table import Table

from ffpipe import override, recipe, train
from ffpipe.runs.view import View
from ffpipe.telemetry.report import StageReport

WARM = 500  # chunks after which buffers and caches have their size


def anonymous_bytes(process: int) -> int:
    """Return the memory that is the process's own: no files, no shared memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


class Watch(View):
    """A view that reads the memory of all processes with each report of the last stage."""

    def __init__(self, log: StoreLog) -> None:
        self.log = log
        self.seen: dict[str, list[tuple[int, int]]] = {}
        self.store: dict[str, int] = {}

    def stop(self) -> None:
        self.store = self.log.read()

    def report(self, report: StageReport) -> None:
        if report.stage != 1 or not report.step:
            return
        processes = {"driver": os.getpid()} | {f"stage process {i}": p for i, p in enumerate(own_stages())}
        for name, process in processes.items():
            self.seen.setdefault(name, []).append((report.step, anonymous_bytes(process)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=positive, default=2500)
    options = parser.parse_args()
    if options.chunks <= WARM:
        parser.error(f"--chunks is {options.chunks}: give more than the {WARM} after which memory is measured")
    with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as folder:
        watch = Watch(StoreLog(folder))
        fields = {"training.epochs": options.chunks // 28 + 1, "execution.chunk": 1, "execution.evaluate_every": 0}
        config = override(recipe("digits"), fields)
        train(replace(config, execution=replace(config.execution, run_dir=f"{folder}/run")), watch)
    table = Table("process", f"MB after {WARM} chunks", "MB at the end", "chunks")
    growth = 0
    for name, seen in watch.seen.items():
        warm = next(size for step, size in seen if step >= WARM)
        last, end = seen[-1]
        growth = max(growth, end - warm)
        table.add_row(name, f"{warm / 1e6:.1f}", f"{end / 1e6:.1f}", str(last))
    Console().print(table)
    print(json.dumps({"benchmark": "flat_memory", "chunks": options.chunks, "growth": growth, "store": watch.store}))
    sys.exit(1 if watch.store["spills"] or watch.store["files_beside"] else 0)


if __name__ == "__main__":
    main()

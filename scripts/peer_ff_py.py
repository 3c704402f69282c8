"""The time of an epoch of ff-py (github.com/jesper-olsen/ff-py), from outside, beside `hinton-exact`.

Its programs are run as they are, in the folder with their copy: `main.py` by NumPy, `main_jax.py` by JAX. They read
MNIST from a folder of that name there, and print a line that begins with "ep" and a number after each epoch, without
testing before the fifth. So an epoch takes what passes between two of the first lines. Nothing of them is imported.
"""

from __future__ import annotations

import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peer_networks import EXACT_BATCH
from peer_runs import LOCAL, Contender, run
from process_tree import cpu_seconds
from rich.console import Console
from rich.table import Table

from ffpipe.system.errors import UserError

PROGRAMS = {"NumPy": "main.py", "JAX": "main_jax.py"}
IMAGES = 50_000
# Lines that are waited for: the first ends an epoch in which modules were imported and data read.
LINES = 3


def programs(folder: Path) -> dict[str, Path]:
    """Return the programs of a copy that can be run here, by name. Raises UserError where the folder is not a copy."""
    needed = (PROGRAMS["NumPy"], "mnist.py", "MNIST")
    if missing := [name for name in needed if not (folder / name).exists()]:
        absent = ", ".join(missing)
        raise UserError(f"{folder} is not a copy of ff-py, for there is no {absent}: give the folder of its main.py")
    found = {name: folder / file for name, file in PROGRAMS.items() if (folder / file).exists()}
    if importlib.util.find_spec("jax") is None:
        found.pop("JAX", None)
    return found


def ends_epoch(line: str) -> bool:
    """Tell whether a line of the program ends an epoch."""
    return re.match(r"ep\s+\d+\s", line) is not None


def seconds_of_epoch(program: Path, threads: int) -> tuple[float, float]:
    """Return the seconds of an epoch and the CPU time as a share of them, of the second epoch and those after it, on as
    many cores as threads. Raises UserError with the program's own last line where it ends before."""
    count, cores = str(threads), sorted(os.sched_getaffinity(0))[:threads]
    process = subprocess.Popen(
        [sys.executable, "-u", program.name],
        cwd=program.parent,
        env=os.environ | {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # JAX has a thread for each
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said, seen = [], list[tuple[float, float]]()
    try:
        for line in process.stdout:
            said.append(line.strip())
            if ends_epoch(line):
                seen.append((time.perf_counter(), cpu_seconds(process.pid)))
            if len(seen) == LINES:
                break
    finally:
        process.kill()
        process.communicate()
    if len(seen) < LINES:
        last = next(filter(None, reversed(said)), "it said nothing")
        raise UserError(f"{program} ended before {LINES} epochs: {last}")
    (began, worked), (ended, done) = seen[0], seen[-1]
    return (ended - began) / (LINES - 1), (done - worked) / (ended - began)


def seconds_of_ours(way: Contender) -> tuple[float, float]:
    """Return the same of `hinton-exact`."""
    figures = run(way, "", IMAGES // EXACT_BATCH)
    return IMAGES / figures.rate, figures.busy


def compare(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Time an epoch of all programs in interleaved rounds, and print the table. Raises UserError where the folder is
    not a copy of ff-py."""
    ways: dict[str, Callable[[], tuple[float, float]]] = {}
    for name, program in programs(folder).items():
        for threads in (1, 2):
            ways[f"ff-py, {name}, threads: {threads}"] = partial(seconds_of_epoch, program, threads)
    two = {"execution.engine": "ray", "execution.stages": 2}
    for precision in ("float32", "bfloat16"):
        for text, fields in (("one process", LOCAL), ("one process, 2 threads", LOCAL), ("2 stages", two)):
            name = f"hinton-exact, {precision}, {text}"
            asked: dict[str, object] = {**fields, "training.precision": precision}
            ways[name] = partial(seconds_of_ours, Contender(name, kind="exact", fields=asked))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            found[name].append(measure())
    table, told = Table("program", "seconds an epoch", "busy"), dict[str, dict[str, float]]()
    for name, runs in found.items():
        seconds, busy = (statistics.median(each) for each in zip(*runs, strict=True))
        table.add_row(name, f"{seconds:.1f}", f"{busy:.0%}")
        told[name] = {"seconds": round(seconds, 2), "busy": round(busy, 3)}
    Console(width=140).print(table)
    return told

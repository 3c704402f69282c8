"""Runs of the recipes of the known programs, and the table of results.

    python scripts/reproduce.py ROW... [--seeds 1 2 3]     run these rows, or go on with them
    python scripts/reproduce.py                            what there is and what is done
    python scripts/reproduce.py --table                    write the tables into docs/reproduction.md

Every run is `ffpipe train RECIPE` through two or three Ray stages in a process of its own, under --runs (made where
it is not), with snapshots: broken off, it is resumed; finished, it is skipped. Ctrl-C and SIGTERM go on to the run,
which saves. (Rows of backpropagation are one process.) Its config, its summary and the end of its log are kept under
scripts/results/ROW/SEED, all figures in scripts/results/results.json. Runs are resumed or skipped only if they were
made with what the row says today. The test split is read once, at the end of a run.

Exit status: 2 where the request is wrong, else that of the run that broke off.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from figures import Figures, add_figures, read_figures
from known_results import ROWS, Row
from results_table import Kept, head_of, lines_of, missing, write_table
from rich.console import Console
from rich.table import Table
from trainer_process import run_to_its_end

from ffpipe.config.fields import leaves, read_config
from ffpipe.config.schema import Config
from ffpipe.system.errors import UserError, one_line

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "reproduction.md"
LOG_LINES = 12
INTERRUPTED = 130
# Said by --backprop and by no recipe.
NOT_OF_THE_RECIPE = ("training.method",)
# Made absolute in a run folder.
PATHS = ("training.data.train", "training.data.test")


def run(row: Row, seed: int, runs: Path) -> int:
    """Train or go on until the run is finished, and keep what it came to. Returns the exit status of the trainer.

    Raises UserError where the run is another process's, or was made with other constants than the row has today.
    """
    name = f"{row.name}, seed {seed}"
    kept = RESULTS / row.name / str(seed)
    if seed in read_figures(RESULTS / "results.json").get(row.name, {}) and kept.exists():
        check_config(row, seed, kept)
        print(f"{name}: done")
        return 0
    log = runs / f"{row.name}-{seed}.log"
    with log.open("a", encoding="utf-8") as output:
        try:
            # The trainer, which writes to the same open file, holds the lock too, also where this process is killed.
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{name}: another process runs it and writes {log}: wait for it, or end it") from None
        folder = (runs / f"{row.name}-{seed}").absolute()
        if folder.exists():
            check_config(row, seed, folder)
            arguments = ["ffpipe", "resume", str(folder)]
        else:
            arguments = [*row.command(seed), f"--run-dir={folder}"]
        print(f"{name}: {shlex.join(arguments)} > {log}", flush=True)
        ended = run_to_its_end([sys.executable, "-m", *arguments], output)
        if ended.status:
            last = log.read_text(encoding="utf-8").splitlines()[-1:]
            print(f"{name}: exit status {ended.status}: {' '.join(last)}", file=sys.stderr)
            return ended.status
        keep(row, seed, folder, log)
    if ended.interrupted:  # when it had nothing left to save
        print(f"{name}: done, and interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def check_config(row: Row, seed: int, folder: Path) -> None:
    """Hold the config of an earlier run against what the row says today. Raises UserError naming the first field."""
    today = row.config(seed)
    try:
        made = read_config(folder / "config.toml")
    except UserError as error:
        raise UserError(f"{row.name}, seed {seed}: {error}; remove {folder} to run it anew") from None
    for leaf in leaves():
        if leaf.path[0] == "training" and leaf.name not in NOT_OF_THE_RECIPE:
            before, now = value(made, leaf.path), value(today, leaf.path)
            if before != now:
                raise UserError(
                    f"{row.name}, seed {seed}: {folder} was made with {leaf.name} {before!r}, the row has {now!r} "
                    "today: remove that folder to run it anew, or give the row back what it had"
                )


def value(config: Config, path: tuple[str, ...]) -> Any:
    """Return the value of a field, with files by their absolute names."""
    found: Any = config
    for name in path:
        found = getattr(found, name)
    return tuple(str(Path(name).absolute()) for name in found) if ".".join(path) in PATHS else found


def keep(row: Row, seed: int, folder: Path, log: Path) -> None:
    """Copy what is small of a finished run, and note its figures."""
    place = RESULTS / row.name / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("config.toml", "summary.json"):
        text = (folder / name).read_text(encoding="utf-8")
        # The place of this machine's data concerns no one else.
        lines = [line for line in text.splitlines() if not line.startswith(("data_dir", "run_dir"))]
        (place / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Nor does that of the run, which a line on how to go on names too.
    said = log.read_text(encoding="utf-8").replace(str(folder), folder.name)
    lines = [line for line in said.splitlines() if not line.startswith("run folder")]
    (place / "log.txt").write_text("\n".join(lines[-LOG_LINES:]) + "\n", encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    figures = Figures(
        goodness=summary["test_error_goodness"],
        softmax=first_known(summary["test_error_softmax"], summary.get("test_error_last")),
        losses=running_losses(folder / "metrics.parquet") if "losses" in row.ours else None,
        epochs_to_2_percent=epochs_to(0.02, summary),
        seconds=summary["train_seconds"],
        engine=summary["engine"],
        stages=summary["stages"],
        weights_sha256=summary["weights_sha256"],
        command=shlex.join(row.command(seed)),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        bits=summary.get("test_bits_per_token"),
    )
    add_figures(RESULTS / "results.json", row.name, seed, figures)


def first_known(*errors: float | None) -> float | None:
    """Return the first error that is known: of the linear read-out, or of the last block's class head where there is
    none."""
    return next((error for error in errors if error is not None), None)


def running_losses(metrics: Path) -> list[float]:
    """Return the mean loss of all layers' steps so far, at each log point."""
    rows = [row for row in pq.read_table(metrics).to_pylist() if row["layer"] >= 0]
    steps = sorted({row["step"] for row in rows})
    return [statistics.mean(row["loss"] for row in rows if row["step"] <= step) for step in steps]


def epochs_to(error: float, summary: dict[str, Any]) -> float | None:
    """Return the first epoch with a validation error by goodness of at most this, where there was one."""
    steps_per_epoch = summary["steps"] / summary["epochs"]
    reached = [
        evaluation["step"] / steps_per_epoch
        for evaluation in summary.get("evaluations", [])
        if evaluation["split"] == "validation"
        and evaluation["error_goodness"] is not None
        and evaluation["error_goodness"] <= error
    ]
    return min(reached, default=None)


def machine(processors: Path = Path("/proc/cpuinfo")) -> str:
    """Name processor and cores, in short. processors: what Linux says of them; elsewhere there is no such file."""
    lines = processors.read_text(encoding="utf-8").splitlines() if processors.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return f"{os.cpu_count()} cores of {model or platform.processor() or platform.machine()}"


def kept_of(row: Row, seed: int) -> Kept:
    """Read the folder of a run that is kept; return nothing where it was removed."""
    folder = RESULTS / row.name / str(seed)
    if not folder.exists():
        return Kept()
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    precision, memory = read_config(folder / "config.toml").training.precision, summary["peak_rss_bytes"]
    return Kept(precision, max(memory, default=None), summary["examples_per_second"])


def work(options: argparse.Namespace) -> int:
    """Run the rows that are named and show what there is. Returns the exit status. Raises UserError."""
    if options.rows:
        options.runs.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        for seed in options.seeds or ROWS[name].seeds:
            status = run(ROWS[name], seed, options.runs)
            if status:
                return status
    figures = read_figures(RESULTS / "results.json")
    if options.table:
        write_table(PAGE, figures, kept_of)
    table = Table(*head_of(figures))
    for cells in lines_of(figures, kept_of):
        table.add_row(*cells)
    Console(width=200).print(table)
    print(f"not run: {', '.join(missing(figures)) or 'none'}")
    return 0


def main() -> int:
    """Run the script; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the row's own")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="where run folders go")
    parser.add_argument("--table", action="store_true", help="write the tables into docs/reproduction.md")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; there are {', '.join(ROWS)}")
    try:
        return work(options)
    except (UserError, OSError) as error:
        print(f"reproduce.py: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # between two runs
        print("reproduce.py: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

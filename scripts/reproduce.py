"""Run the recipes of the known Forward-Forward programs and write the table of results.

    python scripts/reproduce.py ROW... [--seeds 1 2 3]     run these rows, or go on with them
    python scripts/reproduce.py                            what there is and what is done
    python scripts/reproduce.py --table                    write the table into the README

Every run is `ffpipe train RECIPE` through two Ray stages in a process of its own, under --runs (made where it is not),
with snapshots: broken off, it is resumed; finished, it is skipped. Its config, its summary and the end of its log are
kept under scripts/results/ROW/SEED, all figures in scripts/results/results.json. The test split is read once, at the
end of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from known_results import LAGS, ROWS, Row
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
FIGURES = RESULTS / "results.json"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"
LOG_LINES = 12


def command(row: Row, seed: int) -> list[str]:
    """What a person would type."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in row.fields.items()]
    return ["ffpipe", "train", row.recipe, *(["--backprop"] if row.backprop else []), "--seed", str(seed), *options]


def run(row: Row, seed: int, runs: Path) -> None:
    """Train or go on until the run is finished, and keep what it came to. Exits where the run fails."""
    folder = (runs / f"{row.name}-{seed}").absolute()
    known = read_figures().get(row.name, {}).get(str(seed))
    if known is not None:
        print(f"{row.name}, seed {seed}: done")
        return
    ffpipe = [sys.executable, "-m"]
    if row.backprop and folder.exists():
        shutil.rmtree(folder)  # the yardstick keeps no snapshots
    arguments = ["ffpipe", "resume", str(folder)] if folder.exists() else [*command(row, seed), f"--run-dir={folder}"]
    log = runs / f"{row.name}-{seed}.log"
    print(f"{row.name}, seed {seed}: {shlex.join(arguments)} > {log}", flush=True)
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run([*ffpipe, *arguments], stdout=file, stderr=file, check=False).returncode
    if status:
        last = log.read_text(encoding="utf-8").splitlines()[-1:]
        sys.exit(f"{row.name}, seed {seed}: exit status {status}: {' '.join(last)}")
    keep(row, seed, folder, log)


def keep(row: Row, seed: int, folder: Path, log: Path) -> None:
    """Copy what is small of a finished run, and note its figures."""
    place = RESULTS / row.name / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("config.toml", "summary.json"):
        text = (folder / name).read_text(encoding="utf-8")
        # Where this machine keeps its data is nobody else's concern.
        lines = [line for line in text.splitlines() if not line.startswith(("data_dir", "run_dir"))]
        (place / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith("run folder")]
    (place / "log.txt").write_text("\n".join(lines[-LOG_LINES:]) + "\n", encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    figures = read_figures()
    figures.setdefault(row.name, {})[str(seed)] = {
        "goodness": summary["test_error_goodness"],
        "softmax": summary["test_error_softmax"],
        "losses": running_losses(folder / "metrics.parquet") if "losses" in row.ours else None,
        "epochs_to_2_percent": epochs_to(0.02, summary),
        "seconds": summary["train_seconds"],
        "engine": summary["engine"],
        "stages": summary["stages"],
        "weights_sha256": summary["weights_sha256"],
        "command": shlex.join(command(row, seed)),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_figures() -> dict[str, dict[str, Any]]:
    """By row and seed."""
    figures: dict[str, dict[str, Any]] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    return figures


def running_losses(metrics: Path) -> list[float]:
    """The mean loss of all layers' steps so far, at each log point."""
    rows = [row for row in pq.read_table(metrics).to_pylist() if row["layer"] >= 0]
    steps = sorted({row["step"] for row in rows})
    return [statistics.mean(row["loss"] for row in rows if row["step"] <= step) for step in steps]


def epochs_to(error: float, summary: dict[str, Any]) -> float | None:
    """The first epoch with a validation error by goodness of at most this, where there was one."""
    steps_per_epoch = summary["steps"] / summary["epochs"]
    reached = [
        evaluation["step"] / steps_per_epoch
        for evaluation in summary.get("evaluations", [])
        if evaluation["split"] == "validation" and (evaluation["error_goodness"] or 1.0) <= error
    ]
    return min(reached, default=None)


def machine() -> str:
    """Processor and cores, in short."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    return f"{os.cpu_count()} cores of {model}"


def ours(row: Row, runs: dict[str, Any]) -> str:
    """Mean, and worst where there is more than one seed, in percent."""
    if row.ours == ("losses",):
        return "losses " + ", ".join(f"{loss:.4f}" for loss in next(iter(runs.values()))["losses"])
    means, worst = [], []
    for figure in row.ours:
        errors = [100 * result[figure] for result in runs.values()]
        means.append(f"{statistics.mean(errors):.2f}")
        worst.append(f"{max(errors):.2f}")
    text = " / ".join(means)
    return text if len(runs) == 1 else f"{text} (worst {' / '.join(worst)}, {len(runs)} seeds)"


def lines_of(figures: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Cells of the table: row, what it is, published, ours, minutes, where."""
    found = []
    for row in ROWS.values():
        runs = figures.get(row.name)
        if runs:
            minutes = statistics.mean(result["seconds"] for result in runs.values()) / 60
            found.append([f"`{row.name}`", row.setting, row.published, ours(row, runs), f"{minutes:.1f} min"])
    return found


def lines_of_lags(figures: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Cells of what the look-ahead costs: lag, errors, first epoch at 2 % by goodness, minutes; of seed 1 alike."""
    found = []
    for name, lag in LAGS.items():
        result = figures.get(name, {}).get("1")
        if result:
            epochs = result["epochs_to_2_percent"]
            errors = " / ".join(f"{100 * result[figure]:.2f}" for figure in ("goodness", "softmax"))
            reached = "-" if epochs is None else f"{epochs:.0f}"
            found.append([str(lag), errors, reached, f"{result['seconds'] / 60:.1f} min"])
    return found


def as_markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table of these cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)) + "\n"


def write_table(figures: dict[str, dict[str, Any]]) -> None:
    """Both tables, between the two marks in the README."""
    table = as_markdown(["row", "what it is", "published, %", "ours, %", "time"], lines_of(figures))
    lags = lines_of_lags(figures)
    if lags:
        head = ["`negative_lag`", "test error, %", "epochs to 2 % by goodness (validation)", "time"]
        table += f"\nWhat the look-ahead costs: `hinton`, seed 1, at other lags.\n\n{as_markdown(head, lags)}"
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        sys.exit(f"{README} lacks the lines {BEGIN.strip()} and {END.strip()}")
    README.write_text(before + BEGIN + table + END + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the row's own")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="where run folders go")
    parser.add_argument("--table", action="store_true", help="write the table into the README")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; there are {', '.join(ROWS)}")
    options.runs.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        for seed in options.seeds or ROWS[name].seeds:
            run(ROWS[name], seed, options.runs)
    figures = read_figures()
    if options.table:
        write_table(figures)
    table = Table("row", "what it is", "published, %", "ours, %", "time")
    for cells in lines_of(figures):
        table.add_row(*cells)
    Console(width=160).print(table)
    print("not run: " + ", ".join(name for name in ROWS if name not in figures))


if __name__ == "__main__":
    main()

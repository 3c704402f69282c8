"""Errors of the five-digit task against the width of the layers, as cells that are trained one after the other.

    python scripts/five_digits_table.py [--units 100 500 1000 2000] [--kinds supervised unsupervised] [--seed 1]

Each cell is `ffpipe train five-digits-KIND` with four layers of so many units, in a folder below --work; MNIST is in
--data-dir or $FFPIPE_DATA. A cell that was broken off goes on from its newest snapshot, one that is in
results/five-digits.json is left alone. The table stands in docs/five-digits.md; --table writes that alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from arguments import positive
from trainer_process import run_to_its_end

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "five-digits.json", HERE.parent / "docs" / "five-digits.md"
UNITS, KINDS, LAYERS = (100, 500, 1000, 2000), ("supervised", "unsupervised"), 4
BEGIN, END = "<!-- table of scripts/five_digits_table.py -->", "<!-- end of the table -->"
Cells = dict[str, dict[str, Any]]


def key(kind: str, units: int, seed: int) -> str:
    """Name a cell."""
    return f"{kind}-{units}-{seed}"


def command(kind: str, units: int, seed: int) -> list[str]:
    """Spell the arguments of the training of a cell."""
    dims = ["784", *[str(units)] * LAYERS]
    return ["train", f"five-digits-{kind}", "--training.dims", *dims, "--seed", str(seed), "--engine", "local"]


def trained(kind: str, units: int, seed: int, work: Path, further: list[str]) -> dict[str, Any]:
    """Train a cell, or go on with it, and return what the table has of it. Ends the program where
    that fails."""
    folder = work / key(kind, units, seed)
    if (folder / "config.toml").exists():
        arguments = ["resume", str(folder)]
    else:
        arguments = [*command(kind, units, seed), "--run-dir", str(folder)]
    ended = run_to_its_end([sys.executable, "-m", "ffpipe", *arguments, *further], sys.stdout)
    if ended.status:
        sys.exit(ended.status)  # ffpipe has said why
    summary = json.loads((folder / "summary.json").read_text())
    fields = ("test_error_goodness", "test_error_softmax", "train_seconds", "epochs", "weights_sha256", "versions")
    return {name: summary[name] for name in fields}


def known() -> Cells:
    """Read the cells that have been trained."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table(cells: Cells) -> str:
    """Lay out the cells as a Markdown table: the mean of the seeds of each, or a dash where there are none."""
    lines = [
        "| units a layer | supervised, by goodness / softmax | unsupervised, by softmax | seeds |",
        "|---|---|---|---|",
    ]
    for units in UNITS:
        found = {kind: [each for name, each in cells.items() if name.startswith(f"{kind}-{units}-")] for kind in KINDS}
        both = f"{_mean(found['supervised'], 'goodness')} / {_mean(found['supervised'], 'softmax')}"
        seeds = ", ".join(str(len(each)) for each in found.values())
        lines.append(f"| {units:,} | {both} | {_mean(found['unsupervised'], 'softmax')} | {seeds} |")
    return "\n".join(lines)


def _mean(cells: list[dict[str, Any]], readout: str) -> str:
    errors = [cell[f"test_error_{readout}"] for cell in cells]
    return f"{sum(errors) / len(errors):.2%}" if errors else "-"


def put(page: str, made: str) -> str:
    """Return a page with the table between its markers. Raises ValueError where it does not have both."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page does not have {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main() -> int:
    """Train the cells that are left, one after the other, and write the table after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=positive, nargs="+", default=list(UNITS), choices=UNITS, metavar="N")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seed", type=positive, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/five-digits"), help="folder of the runs")
    parser.add_argument("--data-dir", default="", help="folder with a local copy of MNIST")
    parser.add_argument("--table", action="store_true", help="write the table alone, and train nothing")
    options = parser.parse_args()
    further = ["--data-dir", options.data_dir] if options.data_dir else []
    left = [] if options.table else [(kind, units) for units in options.units for kind in options.kinds]
    for kind, units in left:
        name = key(kind, units, options.seed)
        if name not in known():
            found = trained(kind, units, options.seed, options.work, further)
            # Read again: another of these programs may have written cells meanwhile.
            cells = dict(sorted({**known(), name: found}.items()))
            RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
            PAGE.write_text(put(PAGE.read_text(), table(cells)))
    PAGE.write_text(put(PAGE.read_text(), table(known())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

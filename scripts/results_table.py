"""The tables that the figures say, for a terminal and for the README. Pure but for the kept configs that it reads."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from figures import AllFigures, Figures
from known_results import LAGS, ROWS, Row

from ffpipe.errors import UserError

BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"
HEAD = ["row", "what it is", "published, %", "ours, %", "products", "time", "command"]
LAGS_HEAD = ["`negative_lag`", "test error, %", "epochs to 2 % by goodness (validation)", "time"]

# Of a row and its seed: the precision that the run was made with.
Precision = Callable[[Row, int], str]


def ours(row: Row, runs: dict[int, Figures]) -> str:
    """Mean, worst where there is more than one seed, and how many of the row's seeds were run."""
    of = len({*row.seeds, *runs})
    seeds = f"{len(runs)} of {of} seed{'s' if of > 1 else ''}"
    if row.ours == ("losses",):
        losses = [
            statistics.mean(each) for each in zip(*(result.losses or () for result in runs.values()), strict=True)
        ]
        return f"losses {', '.join(f'{loss:.4f}' for loss in losses)} ({seeds})"
    means, worst = [], []
    for figure in row.ours:
        errors = [100 * getattr(result, figure) for result in runs.values()]
        means.append(f"{statistics.mean(errors):.2f}")
        worst.append(f"{max(errors):.2f}")
    told = f"worst {' / '.join(worst)}, {seeds}" if len(runs) > 1 else seeds
    return f"{' / '.join(means)} ({told})"


def lines_of(figures: AllFigures, precision: Precision) -> list[list[str]]:
    """Cells below HEAD, of the rows that were run; and the machine where they were not all run on one."""
    machines = machines_of(figures)
    found = []
    for row in ROWS.values():
        runs = figures.get(row.name)
        if not runs:
            continue
        first = min(runs)
        products = " and ".join(sorted({precision(row, seed) for seed in runs}))
        cells = [f"`{row.name}`", row.setting, row.published, ours(row, runs), products, _minutes(*runs.values())]
        cells.append(f"`{runs[first].command}`")
        if len(machines) > 1:
            cells.append(", ".join(sorted({result.machine for result in runs.values()})))
        found.append(cells)
    return found


def lines_of_lags(figures: AllFigures) -> list[list[str]]:
    """Cells below LAGS_HEAD: what the look-ahead costs, of seed 1 alike."""
    found = []
    for name, lag in LAGS.items():
        result = figures.get(name, {}).get(1)
        if result:
            errors = " / ".join(
                "-" if each is None else f"{100 * each:.2f}" for each in (result.goodness, result.softmax)
            )
            epochs = result.epochs_to_2_percent
            found.append([str(lag), errors, "-" if epochs is None else f"{epochs:.0f}", _minutes(result)])
    return found


def missing(figures: AllFigures) -> list[str]:
    """Rows that were not run, and of the others the seeds that were not."""
    found = []
    for row in ROWS.values():
        seeds = [seed for seed in row.seeds if seed not in figures.get(row.name, {})]
        if seeds:
            some = len(seeds) < len(row.seeds)
            found.append(f"{row.name} (seed {', '.join(map(str, seeds))})" if some else row.name)
    return found


def machines_of(figures: AllFigures) -> list[str]:
    """Where the rows of the table were run."""
    return sorted({result.machine for name in ROWS for result in figures.get(name, {}).values()})


def head_of(figures: AllFigures) -> list[str]:
    """HEAD, with a column for machines where there is more than one."""
    return [*HEAD, "machine"] if len(machines_of(figures)) > 1 else HEAD


def write_table(readme: Path, figures: AllFigures, precision: Precision) -> None:
    """Both tables, between the two marks in the README. Raises UserError where the marks are absent."""
    machines = machines_of(figures)
    table = f"All rows were run on {machines[0]}.\n\n" if len(machines) == 1 else ""
    table += as_markdown(head_of(figures), lines_of(figures, precision))
    lags = lines_of_lags(figures)
    if lags:
        table += f"\nWhat the look-ahead costs: `hinton`, seed 1, at other lags.\n\n{as_markdown(LAGS_HEAD, lags)}"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if END not in rest:
        raise UserError(f"{readme} lacks the lines {BEGIN.strip()} and {END.strip()}: put them where the table goes")
    readme.write_text(before + BEGIN + table + END + after, encoding="utf-8")


def as_markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table of these cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)) + "\n"


def _minutes(*runs: Figures) -> str:
    """The mean of their times of training."""
    return f"{statistics.mean(result.seconds for result in runs) / 60:.1f} min"

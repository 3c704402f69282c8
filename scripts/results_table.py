"""Tables of the figures, for a terminal and for docs/reproduction.md. Pure but for the kept configs that it reads."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from figures import AllFigures, Figures
from known_results import LAGS, ROWS, Row

from ffpipe.system.errors import UserError

BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"
FIGURES_OF_RUNS = ["ours, %", "products", "time", "examples/s", "memory"]
HEAD = ["row", "what it is", "published, %", "differs from that in", *FIGURES_OF_RUNS, "command"]
NOT_RUN_HEAD = ["row", "what it is", "published, %", "differs from that in", "command"]
LAGS_HEAD = ["`negative_lag`", "seeds", "test error, %", "epochs to 2 % by goodness (validation)"]


@dataclass(frozen=True)
class Kept:
    """The kept folder of a run. memory: peak bytes of its largest process; rate: examples a second; None where nobody
    knows."""

    precision: str = "-"
    memory: int | None = None
    rate: float | None = None


KeptOf = Callable[[Row, int], Kept]


def ours(row: Row, runs: dict[int, Figures]) -> str:
    """Spell the mean, the worst where there is more than one seed, and how many of the row's seeds were run."""
    of = len({*row.seeds, *runs})
    seeds = f"{len(runs)} of {of} seed{'s' if of > 1 else ''}"
    if row.ours == ("losses",):
        losses = [
            statistics.mean(each) for each in zip(*(result.losses or () for result in runs.values()), strict=True)
        ]
        return f"losses {', '.join(f'{loss:.4f}' for loss in losses)} ({seeds})"
    if row.ours == ("bits",):
        bits = [result.bits for result in runs.values() if result.bits is not None]
        return f"{statistics.mean(bits):.3f} bits a character ({seeds})"
    means, worst = [], []
    for figure in row.ours:
        errors = [100 * getattr(result, figure) for result in runs.values()]
        means.append(f"{statistics.mean(errors):.2f}")
        worst.append(f"{max(errors):.2f}")
    told = f"worst {' / '.join(worst)}, {seeds}" if len(runs) > 1 else seeds
    return f"{' / '.join(means)} ({told})"


def lines_of(figures: AllFigures, kept_of: KeptOf) -> list[list[str]]:
    """Return the cells below HEAD, of the rows that were run; and the machine where they were not all run on one."""
    machines = machines_of(figures)
    found = []
    for row in ROWS.values():
        runs = figures.get(row.name)
        if not runs:
            continue
        first = min(runs)
        kept = [kept_of(row, seed) for seed in sorted(runs)]
        products = " and ".join(sorted({each.precision for each in kept}))
        memory = max((each.memory for each in kept if each.memory), default=None)
        cells = [f"`{row.name}`", row.setting, row.published, row.differs, ours(row, runs), products]
        cells.append(_minutes(*runs.values()))
        rates = [each.rate for each in kept if each.rate]
        cells.append(f"{statistics.mean(rates):,.0f}" if rates else "-")
        cells.append("-" if memory is None else f"{memory / 1e6:,.0f} MB")
        cells.append(f"`{runs[first].command}`")
        if len(machines) > 1:
            cells.append(", ".join(sorted({result.machine for result in runs.values()})))
        found.append(cells)
    return found


def lines_of_lags(figures: AllFigures) -> list[list[str]]:
    """Return the cells below LAGS_HEAD: what the look-ahead costs, as mean and, of more seeds than one, range."""
    found = []
    for name, lag in LAGS.items():
        runs = figures.get(name, {})
        if runs:
            errors = [
                [100 * error for result in runs.values() if (error := getattr(result, figure)) is not None]
                for figure in ("goodness", "softmax")
            ]
            epochs = [result.epochs_to_2_percent for result in runs.values()]
            reached = _mean_and_range([each for each in epochs if each is not None], 0)
            if None in epochs and len(runs) > 1:
                reached += f", {epochs.count(None)} not"
            told = " / ".join(_mean_and_range(each, 2) for each in errors)
            found.append([str(lag), str(len(runs)), told, reached])
    return found


def _mean_and_range(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    mean, least, most = (f"{each:.{digits}f}" for each in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({least} to {most})"


def lines_not_run(figures: AllFigures) -> list[list[str]]:
    """Return the cells below NOT_RUN_HEAD, of the rows that were not run."""
    return [
        [f"`{row.name}`", row.setting, row.published, row.differs, f"`{shlex.join(row.command(row.seeds[0]))}`"]
        for row in ROWS.values()
        if not figures.get(row.name)
    ]


def missing(figures: AllFigures) -> list[str]:
    """Return the rows that were not run, and of the others the seeds that were not."""
    found = []
    for row in ROWS.values():
        seeds = [seed for seed in row.seeds if seed not in figures.get(row.name, {})]
        if seeds:
            some = len(seeds) < len(row.seeds)
            found.append(f"{row.name} (seed {', '.join(map(str, seeds))})" if some else row.name)
    return found


def machines_of(figures: AllFigures) -> list[str]:
    """Return the machines on which the rows of the table were run."""
    return sorted({result.machine for name in ROWS for result in figures.get(name, {}).values()})


def head_of(figures: AllFigures) -> list[str]:
    """Return HEAD, with a column for machines where there is more than one."""
    return [*HEAD, "machine"] if len(machines_of(figures)) > 1 else HEAD


def write_table(page: Path, figures: AllFigures, kept_of: KeptOf) -> None:
    """Write both tables between the two marks in a page. Raises UserError where the marks are absent."""
    machines = machines_of(figures)
    table = f"All rows were run on {machines[0]}.\n\n" if len(machines) == 1 else ""
    table += as_markdown(head_of(figures), lines_of(figures, kept_of))
    if lines := lines_not_run(figures):
        table += "\n## Not run yet\n\nOr not again since the recipe changed.\n\n" + as_markdown(NOT_RUN_HEAD, lines)
    lags = lines_of_lags(figures)
    if lags:
        table += "\n## What the look-ahead costs\n\n`hinton` at other lags. It is validated at every second epoch.\n\n"
        table += as_markdown(LAGS_HEAD, lags)
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if END not in rest:
        raise UserError(f"{page} lacks the lines {BEGIN.strip()} and {END.strip()}: put them where the table goes")
    page.write_text(before + BEGIN + table + END + after, encoding="utf-8")


def as_markdown(head: list[str], lines: list[list[str]]) -> str:
    """Write a table of these cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)) + "\n"


def _minutes(*runs: Figures) -> str:
    """Spell the mean of their times of training."""
    return f"{statistics.mean(result.seconds for result in runs) / 60:.1f} min"

"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ffpipe.pipeline.job import Job, Layout
from ffpipe.telemetry.report import LayerRow, StageReport


class View(Protocol):
    """Shows a run as its reports come in."""

    def start(self, job: Job, layout: Layout, run_dir: Path) -> None: ...

    def report(self, report: StageReport) -> None: ...

    def go_on(self, layout: Layout) -> None:
        """The run goes on, on other stages."""

    def note(self, text: str) -> None:
        """Something that a person should know: a warning, a recovery."""

    def stop(self) -> None: ...

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float) -> None: ...


class QuietView:
    """Shows nothing; for use from Python."""

    def note(self, text: str) -> None: ...

    def start(self, job: Job, layout: Layout, run_dir: Path) -> None: ...

    def go_on(self, layout: Layout) -> None: ...

    def report(self, report: StageReport) -> None: ...

    def stop(self) -> None: ...

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float) -> None: ...


class CarefulView:
    """Another view, as long as it can be shown: when nobody reads it any more, or its disk is full, the run goes on."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lost = False

    def start(self, job: Job, layout: Layout, run_dir: Path) -> None:
        self._try(lambda: self._view.start(job, layout, run_dir))

    def go_on(self, layout: Layout) -> None:
        self._try(lambda: self._view.go_on(layout))

    def report(self, report: StageReport) -> None:
        self._try(lambda: self._view.report(report))

    def note(self, text: str) -> None:
        self._try(lambda: self._view.note(text))

    def stop(self) -> None:
        with suppress(OSError, ValueError):  # what it has started is to end in any case
            self._view.stop()

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float) -> None:
        self._try(lambda: self._view.finish(run_dir, errors, seconds))

    def _try(self, show: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            show()
        except (OSError, ValueError):  # or words that the terminal has no letters for
            self._lost = True


class Terminal(Console):
    """A console that raises BrokenPipeError where nobody reads it; rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Progress:
    """Where a run stands: the numbers behind both views, without any drawing."""

    def __init__(self, job: Job, layout: Layout) -> None:
        self.job = job
        self.rows: dict[int, LayerRow] = {}
        self.step = 0
        self.go_on(layout)

    def go_on(self, layout: Layout) -> None:
        """On these stages, whose clocks begin now."""
        self.layers = [tuple(spec.layers) for spec in layout.stages]
        self.busy = [0.0] * len(self.layers)
        self._marks: list[tuple[float, int]] = []

    def take(self, report: StageReport) -> None:
        self.busy[report.stage] = report.busy_share
        for row in report.rows:
            self.rows[row.layer] = row
        if report.stage == len(self.layers) - 1:
            self.step = report.step
            self._marks = [*self._marks[-20:], (report.seconds, report.step)]

    @property
    def epoch(self) -> int:
        """Counted from 1."""
        return min(self.step // self.job.steps_per_epoch + 1, self.job.config.training.epochs)

    @property
    def examples_per_second(self) -> float:
        """Over the last reports, by the last stage's clock."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return 0.0
        (begun, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) * self.job.config.training.batch_size / (ended - begun)

    @property
    def seconds_left(self) -> float | None:
        rate = self.examples_per_second
        return (self.job.steps - self.step) * self.job.config.training.batch_size / rate if rate else None

    def headline(self) -> str:
        left = self.seconds_left
        return (
            f"epoch {self.epoch}/{self.job.config.training.epochs}  step {self.step:,}/{self.job.steps:,}  "
            f"{self.examples_per_second:,.0f} examples/s  {'-' if left is None else f'{left:.0f} s'} left"
        )

    def figures(self) -> str:
        """Loss and errors of each block, in a line."""
        rows = [f"{block}: {' '.join(_figures(row))}" for block, row in sorted(self.rows.items()) if block >= 0]
        return f"loss and errors of blocks {', '.join(rows) or '-'}"


class LiveView:
    """A table that redraws itself, with the evaluations above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._progress: Progress | None = None

    def start(self, job: Job, layout: Layout, run_dir: Path) -> None:
        self.console.print(_title(job, layout))
        self._progress = Progress(job, layout)
        self._live = Live(self._draw(), console=self.console, refresh_per_second=4, transient=False)
        self._live.start()

    def go_on(self, layout: Layout) -> None:
        assert self._progress is not None
        self._progress.go_on(layout)

    def report(self, report: StageReport) -> None:
        assert self._progress is not None
        assert self._live is not None
        self._progress.take(report)
        for line in _evaluation_lines(self._progress.job, report):
            self._live.console.print(line)
        self._live.update(self._draw())

    def note(self, text: str) -> None:
        (self._live.console if self._live else self.console).print(text, soft_wrap=True, highlight=False, markup=False)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float) -> None:
        _print_end(self.console, run_dir, errors, seconds)

    def _draw(self) -> Group:
        assert self._progress is not None
        progress = self._progress
        errors = "pair errors" if progress.job.config.training.contrasts else "errors"
        table = Table("block", "stage", "loss", errors, "busy")
        for stage, blocks in enumerate(progress.layers):
            for block in blocks:
                row = progress.rows.get(block)
                busy = f"{progress.busy[stage]:.0%}" if block == blocks[0] else ""
                name = progress.job.network.outlines[block].name
                table.add_row(f"{block} {name}", str(stage) if block == blocks[0] else "", *_figures(row), busy)
        if progress.job.network.has_head:
            table.add_row("softmax head", "", *_figures(progress.rows.get(-1)), "")
        return Group(Text(progress.headline()), table)


class PlainView:
    """A line for each evaluation and, at most every ten seconds, one for progress."""

    SECONDS = 10.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._printed = time.monotonic()

    def start(self, job: Job, layout: Layout, run_dir: Path) -> None:
        self._line(_title(job, layout))
        self._progress = Progress(job, layout)

    def go_on(self, layout: Layout) -> None:
        assert self._progress is not None
        self._progress.go_on(layout)

    def report(self, report: StageReport) -> None:
        assert self._progress is not None
        self._progress.take(report)
        for line in _evaluation_lines(self._progress.job, report):
            self._line(line)
        if time.monotonic() - self._printed >= self.SECONDS:
            self._printed = time.monotonic()
            self._line(f"{self._progress.headline()}; {self._progress.figures()}")

    def note(self, text: str) -> None:
        self._line(text)

    def stop(self) -> None: ...

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float) -> None:
        _print_end(self.console, run_dir, errors, seconds)

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def make_view(console: Console) -> View:
    """The live table where the output is a terminal."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def _title(job: Job, layout: Layout) -> str:
    config = job.config
    stages = " | ".join(_span(tuple(spec.layers)) for spec in layout.stages)
    negatives = f"{config.training.negatives} negatives" if config.training.contrasts else "no negatives"
    return (
        f"{config.recipe}: {_sizes(job)}, {len(job.splits.train):,} training examples, {negatives}; "
        f"engine {config.execution.engine}, {len(layout.stages)} stage(s) of layers {stages}, "
        f"chunk {layout.plan.chunk}, window {layout.window}"
    )


def _sizes(job: Job) -> str:
    """784-500-500 of dense layers, or what each block is and hands on."""
    outlines = job.network.outlines
    if job.config.training.contrasts and not (job.config.training.blocks or job.config.training.model):
        return "-".join(map(str, job.config.training.dims))
    return ", ".join(f"{outline.name} {'x'.join(map(str, outline.outputs.shape))}" for outline in outlines)


def _span(layers: tuple[int, ...]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _evaluation_lines(job: Job, report: StageReport) -> list[str]:
    lines = []
    for e in report.evaluations:
        by = ", ".join(f"{_percent(error)} by {name}" for name, error in e.readouts.items())
        line = f"after epoch {e.step / job.steps_per_epoch:g}: {e.split} error {by} ({e.examples:,} examples)"
        if len(e.blocks) > 1:
            line += f"; blocks {', '.join(map(_percent, e.blocks))}"
        lines.append(line)
    return lines


def _figures(row: LayerRow | None) -> tuple[str, str]:
    """Loss and errors of a block, in words."""
    return ("-", "-") if row is None else (f"{row.loss:.4f}", _percent(row.pair_errors))


def _print_end(console: Console, run_dir: Path, errors: Mapping[str, float], seconds: float) -> None:
    by = ", ".join(f"{_percent(error)} by {name}" for name, error in errors.items())
    for line in (f"trained in {seconds:.1f} s", f"test error: {by or '-'}", f"run folder: {run_dir}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.2%}"

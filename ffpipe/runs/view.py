"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
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

    def finish(self, run_dir: Path, goodness: float | None, softmax: float | None, seconds: float) -> None: ...


class QuietView:
    """Shows nothing; for use from Python."""

    def note(self, text: str) -> None: ...

    def start(self, job: Job, layout: Layout, run_dir: Path) -> None: ...

    def go_on(self, layout: Layout) -> None: ...

    def report(self, report: StageReport) -> None: ...

    def stop(self) -> None: ...

    def finish(self, run_dir: Path, goodness: float | None, softmax: float | None, seconds: float) -> None: ...


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

    def finish(self, run_dir: Path, goodness: float | None, softmax: float | None, seconds: float) -> None:
        self._try(lambda: self._view.finish(run_dir, goodness, softmax, seconds))

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

    def finish(self, run_dir: Path, goodness: float | None, softmax: float | None, seconds: float) -> None:
        _print_end(self.console, run_dir, goodness, softmax, seconds)

    def _draw(self) -> Group:
        assert self._progress is not None
        table = Table("stage", "layers", "loss", "pair errors", "busy")
        for index, layers in enumerate(self._progress.layers):
            rows = [self._progress.rows.get(layer) for layer in layers]
            table.add_row(
                str(index),
                _span(layers),
                "  ".join("-" if row is None else f"{row.loss:.4f}" for row in rows),
                "  ".join("-" if row is None else f"{row.pair_errors:.2%}" for row in rows),
                f"{self._progress.busy[index]:.0%}",
            )
        return Group(Text(self._progress.headline()), table)


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
            self._line(self._progress.headline())

    def note(self, text: str) -> None:
        self._line(text)

    def stop(self) -> None: ...

    def finish(self, run_dir: Path, goodness: float | None, softmax: float | None, seconds: float) -> None:
        _print_end(self.console, run_dir, goodness, softmax, seconds)

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def make_view(console: Console) -> View:
    """The live table where the output is a terminal."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def _title(job: Job, layout: Layout) -> str:
    config = job.config
    dims = "-".join(map(str, config.training.dims))
    stages = " | ".join(_span(tuple(spec.layers)) for spec in layout.stages)
    return (
        f"{config.recipe}: {dims}, {len(job.splits.train):,} training examples, {config.training.negatives} negatives; "
        f"engine {config.execution.engine}, {len(layout.stages)} stage(s) of layers {stages}, "
        f"chunk {layout.plan.chunk}, window {layout.window}"
    )


def _span(layers: tuple[int, ...]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _evaluation_lines(job: Job, report: StageReport) -> list[str]:
    return [
        f"after epoch {e.step / job.steps_per_epoch:g}: {e.split} error {_percent(e.error_goodness)} by goodness, "
        f"{_percent(e.error_softmax)} by softmax ({e.examples:,} examples)"
        for e in report.evaluations
    ]


def _print_end(console: Console, run_dir: Path, goodness: float | None, softmax: float | None, seconds: float) -> None:
    lines = [
        f"trained in {seconds:.1f} s",
        f"test error: {_percent(goodness)} by goodness, {_percent(softmax)} by softmax",
        f"run folder: {run_dir}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.2%}"

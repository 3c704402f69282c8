"""The view of a run for a person: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ffpipe.config.schema import Execution
from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.runs.inspection import newest_rows, percent, say_errors, say_row_errors
from ffpipe.system.errors import escaped, one_line
from ffpipe.telemetry.report import LayerRow, RecoveryNote, StageReport, format_layers


class View:
    """A listener that is told how a run goes, and shows nothing of it."""

    def starting(self, execution: Execution) -> None:
        """Note that the engine is about to start, which may take a while."""

    def start(self, job: Job, layout: Layout, run_dir: Path, step: int) -> None:
        """Note that the run begins on these stages after this step: 0, or that of the snapshot that it goes on from."""

    def resumed(self, step: int, steps: int) -> None:
        """Note that an earlier run is resumed from its snapshot of this step; 0: it has none."""

    def report(self, report: StageReport) -> None:
        """Show that a stage has come further."""

    def go_on(self, layout: Layout, step: int) -> None:
        """Note that the run goes on after this step, on other stages."""

    def note(self, text: str) -> None:
        """Show a warning or a recovery."""

    def recovered(self, note: RecoveryNote) -> None:
        """Note that the run goes on from its newest snapshot, after something was lost."""

    def stop(self) -> None:
        """Note that training ends, whether it went well or not."""

    def ended(self, summary: Mapping[str, Any]) -> None:
        """Note that the run has ended and all is written. summary: as in summary.json."""

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float, start_seconds: float | None) -> None:
        """Show that the run is finished. errors: of each read-out on the test split, as fractions. seconds: of
        training. start_seconds: before it, as in summary.json."""


class Warnings(View):
    """A view that prints warnings on stderr and shows nothing else: that of a run that is given none."""

    def note(self, text: str) -> None:
        if text.startswith("warning"):
            with suppress(OSError, ValueError):  # nobody reads them: the run goes on
                print(one_line(text), file=sys.stderr, flush=True)


class Terminal(Console):
    """A console that raises BrokenPipeError where nobody reads it; rich would end the program.

    A notebook gets plain lines in the output of its cell: rich would show each as a page of its own.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        super().__init__(file=file)
        if self.is_jupyter:
            # Its kernel asks for colours as a terminal would, and cannot move a cursor.
            super().__init__(file=file, force_jupyter=False, force_terminal=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Progress:
    """Numbers that say where a run stands, without any drawing."""

    def __init__(self, job: Job, layout: Layout, step: int) -> None:
        self.job = job
        self.rows: dict[int, LayerRow] = {}
        self.tested, self.testing = 0, ""
        self.go_on(layout, step)

    def go_on(self, layout: Layout, step: int) -> None:
        """Follow other stages from this step on; their clocks begin now."""
        self.step = step  # until the last stage reports, which may take a chapter
        self.layers = [tuple(spec.layers) for spec in layout.stages]
        self.busy = [0.0] * len(self.layers)
        self.trained_per_second = 0.0  # examples, when it was last measured; 0 until then
        self._first, self._marks = step, list[tuple[float, int]]()

    def take(self, report: StageReport) -> None:
        self.busy[report.stage] = report.busy_share
        for row in report.rows:
            self.rows[row.layer] = row
        # A step is through when the last stage is.
        if report.stage == len(self.layers) - 1:
            if report.testing != self.testing:  # the rate of other work
                self._marks = []
            self.step, self.testing, self.tested = report.step, report.testing, report.tested
            self._marks = [*self._marks[-20:], (report.seconds, self.examples)]
            self.trained_per_second = self._rate_of_training(report) or self.trained_per_second

    @property
    def examples(self) -> int:
        """Number of examples that are through, of the training or of the test at hand."""
        return self.tested if self.testing else self.step * self.job.config.training.batch_size

    @property
    def epoch(self) -> int:
        """Counted from 1."""
        return min(self.step // self.job.steps_per_epoch + 1, self.job.config.training.epochs)

    @property
    def examples_per_second(self) -> float:
        """The rate over the last reports, by the last stage's clock."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return 0.0
        (begun, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - begun)

    def _rate_of_training(self, report: StageReport) -> float:
        """Return examples of training a second, as of the last stage's report; 0 where that has nothing new of it."""
        seconds = report.train_seconds - report.train_began
        # An epoch that is shorter than the time between two reports has one, in the test after it.
        if not self.trained_per_second and seconds:
            return (report.step - self._first) * self.job.config.training.batch_size / seconds
        return 0.0 if self.testing else self.examples_per_second

    def headline(self) -> str:
        training, rate = self.job.config.training, self.examples_per_second
        there = self.job.steps * training.batch_size
        work = f"step {self.step:,}/{self.job.steps:,}"
        if self.testing:
            there = self.job.tested[self.testing]
            work += f"  tests: {self.tested:,}/{there:,} {self.testing} examples"
            if not rate:
                return f"epoch {self.epoch}/{training.epochs}  {work}"
        left = f"{(there - self.examples) / rate:.0f} s" if rate else "-"
        speed = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"
        return f"epoch {self.epoch}/{training.epochs}  {work}  {speed} examples/s  {left} left"


class Epochs:
    """The newest rows of each epoch. An epoch has ended when every stage is through with it; the first ones are
    epochs ahead."""

    def __init__(self, job: Job, layout: Layout, step: int) -> None:
        self._length, self._ended = job.steps_per_epoch, step // job.steps_per_epoch
        self._steps = [step] * len(layout.stages)
        self._rows: dict[int, dict[int, LayerRow]] = {}

    def take(self, report: StageReport) -> Iterator[tuple[int, list[LayerRow]]]:
        """Take in a report. Yields each epoch that has ended with it, counted from 1, and its rows, if it has any."""
        self._steps[report.stage] = report.step
        for row in report.rows:
            self._rows.setdefault(-(-row.step // self._length), {})[row.layer] = row
        while (self._ended + 1) * self._length <= min(self._steps):
            self._ended += 1
            if rows := self._rows.pop(self._ended, None):
                yield self._ended, newest_rows(rows.values())


class ConsoleView(View):
    """Lines for people. On a terminal a table that redraws itself stands below them; elsewhere, as in a file or a
    notebook, a line comes at the end of every epoch for which there are rows of metrics, and in a long epoch every ten
    seconds.

    Falls silent where a line cannot be written, since a run need not end when nobody reads it any more (`ffpipe train |
    head`) or its output goes to a disk that is full. console: of rich; None: standard output.
    """

    SECONDS = 10.0

    def __init__(self, console: Console | None = None) -> None:
        self.console = console = console or Terminal()
        self._live = Live(console=console, auto_refresh=console.is_terminal, refresh_per_second=4)
        self._progress: Progress | None = None
        self._printed = time.monotonic()
        self._silent = False

    def starting(self, execution: Execution) -> None:
        if execution.engine == "ray":  # the others are there at once
            stages = execution.stages or execution.listed
            count = f"{stages} stage{'s' if stages > 1 else ''}" if stages else "stages"
            self.note(f"starting {count} with Ray")

    def start(self, job: Job, layout: Layout, run_dir: Path, step: int) -> None:
        self.note(_title(job, layout))
        self._progress, self._epochs = Progress(job, layout, step), Epochs(job, layout, step)
        if self.console.is_terminal:
            self._live.update(self._table(self._progress))
            self._show(self._live.start)

    def resumed(self, step: int, steps: int) -> None:
        if not step:
            self.note("the run begins again at step 0: no snapshot can be used, and what was trained before is lost")
        elif step < steps:
            self.note(
                f"the run goes on from step {step:,} of {steps:,}, its newest snapshot; what came after is made again"
            )
        else:
            self.note(f"the run is at its end, step {step:,} of {steps:,}: nothing is left to train")

    def go_on(self, layout: Layout, step: int) -> None:
        assert self._progress is not None
        self._progress.go_on(layout, step)
        self._epochs = Epochs(self._progress.job, layout, step)

    def report(self, report: StageReport) -> None:
        assert self._progress is not None
        self._progress.take(report)
        if not self.console.is_terminal:
            job = self._progress.job
            for epoch, rows in self._epochs.take(report):
                self._printed = time.monotonic()
                at = f"epoch {epoch}/{job.config.training.epochs}  step {epoch * job.steps_per_epoch:,}/{job.steps:,}"
                self.note(f"{at}  {_say_rows(rows)}")
        for e in report.evaluations:
            when = f"after epoch {e.step / self._progress.job.steps_per_epoch:g}"
            blocks = f"; blocks {', '.join(map(percent, e.blocks))}" if len(e.blocks) > 1 else ""
            self.note(f"{when}: {e.split} error {say_errors(e.readouts)} ({e.examples:,} examples){blocks}")
        if self.console.is_terminal:
            self._live.update(self._table(self._progress))
        elif time.monotonic() - self._printed >= self.SECONDS:
            self._printed = time.monotonic()
            self.note(f"{self._progress.headline()}; {_say_rows(newest_rows(self._progress.rows.values()))}")

    def note(self, text: str) -> None:
        lines = "\n".join(map(escaped, text.split("\n")))
        # As they are: rich would take words in brackets for its own markup, break lines, and colour numbers.
        self._show(lambda: self.console.print(lines, soft_wrap=True, highlight=False, markup=False))

    def stop(self) -> None:
        with suppress(OSError, ValueError):  # also where it is silent: its thread is to end
            self._live.stop()

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float, start_seconds: float | None) -> None:
        before = "" if start_seconds is None else f", after {start_seconds:.1f} s of start-up"
        self.note(f"trained in {seconds:.1f} s{before}\ntest error: {say_errors(errors) or '-'}\nrun folder: {run_dir}")

    def _show(self, show: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            show()
        except (OSError, ValueError):  # or words that the terminal has no letters for
            self._silent = True

    def _table(self, progress: Progress) -> Group:
        training = progress.job.config.training
        # If steps have rows of one role there are no pairs.
        errors = "row errors" if training.in_turns else "pair errors" if training.contrasts else "errors"
        table = Table("block", "stage", "rate", "loss", errors, "weights", "busy")
        for stage, blocks in enumerate(progress.layers):
            for block in blocks:
                row = progress.rows.get(block)
                of_stage, busy = (str(stage), f"{progress.busy[stage]:.0%}") if block == blocks[0] else ("", "")
                name = progress.job.network.outlines[block].name
                table.add_row(f"{block} {name}", of_stage, _rate(row), *_figures(row), busy)
        if progress.job.network.has_head:
            row = progress.rows.get(-1)
            table.add_row("softmax head", "", _rate(row), *_figures(row), "")
        return Group(Text(progress.headline()), table)


def _title(job: Job, layout: Layout) -> str:
    training, outlines = job.config.training, job.network.outlines
    if training.contrasts and not (training.blocks or training.model):
        sizes = "-".join(map(str, training.dims))
    else:
        sizes = ", ".join(f"{outline.name} {'x'.join(map(str, outline.outputs.shape))}" for outline in outlines)
    stages = " | ".join(_named(spec) for spec in layout.stages)
    negatives = f"{training.negatives} negatives" if training.contrasts else "no negatives"
    return (
        f"{job.config.recipe}: {sizes}, {len(job.splits.train):,} training examples, {negatives}; "
        f"engine {job.config.execution.engine}, {len(layout.stages)} stage(s) of layers {stages}, "
        f"chunk {layout.plan.chunk}, window {layout.window}"
    )


def _named(spec: StageSpec) -> str:
    """Spell the layers of a stage, and how many replicas it has: 0-1, 2 x 4."""
    layers = format_layers(spec.layers)
    replicas = spec.replicas.counts[spec.index]
    return f"{layers} x {replicas}" if replicas > 1 else layers


def _say_rows(rows: Iterable[LayerRow]) -> str:
    """Spell loss, errors and size of the weights of each block and of the head in a line, with the learning rates of
    the blocks and the factors of their schedules."""
    rows, said = list(rows), list[str]()
    for name in ("rate", "factor"):
        of_blocks = [getattr(row, name) for row in rows if row.layer >= 0]
        if known := dict.fromkeys(f"{value:.3g}" for value in of_blocks if value is not None):
            said.append(f"{name} {' '.join(known)}")
    each = ", ".join(f"{row.layer if row.layer >= 0 else 'head'}: {' '.join(_figures(row))}" for row in rows)
    return f"{', '.join(said)}{'; ' if said else ''}loss, errors and rms of weights of blocks {each or '-'}"


def _rate(row: LayerRow | None) -> str:
    return "-" if row is None or row.rate is None else f"{row.rate:.3g}"


def _figures(row: LayerRow | None) -> tuple[str, str, str]:
    """Spell loss, errors and root mean square of the weights of a block."""
    if row is None:
        return "-", "-", "-"
    return f"{row.loss:.4f}", say_row_errors(row), "-" if row.weight_rms is None else f"{row.weight_rms:.4f}"

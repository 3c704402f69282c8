"""The way from a run to the callbacks of a user: what a view is told, as the events that they are promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffpipe.config.schema import Execution
from ffpipe.learn.user_model import describe_error
from ffpipe.pipeline.job import Job, Layout
from ffpipe.runs.interrupt import Interrupt
from ffpipe.runs.view import Progress, View
from ffpipe.telemetry.callbacks import Callback, Callbacks, RunStart, Speed
from ffpipe.telemetry.report import RecoveryNote, StageReport


class Followed(View):
    """A view, and callbacks beside it. interrupt: what they may end the run by."""

    def __init__(self, view: View, callbacks: Sequence[Callback], interrupt: Interrupt) -> None:
        self._view, self._interrupt = view, interrupt
        self._callbacks = Callbacks(callbacks, self._complain, self._end)
        self._progress: Progress | None = None
        self._begun = self._to_end = False

    def starting(self, execution: Execution) -> None:
        self._view.starting(execution)

    def resumed(self, step: int, steps: int) -> None:
        self._view.resumed(step, steps)

    def start(self, job: Job, layout: Layout, run_dir: Path, step: int) -> None:
        self._view.start(job, layout, run_dir, step)
        self._progress = Progress(job, layout, step)
        names = tuple(outline.name for outline in job.network.outlines)
        stages = tuple(self._progress.layers)
        self._callbacks.tell(
            "on_start",
            RunStart(run_dir, job.config, job.steps, job.steps_per_epoch, step, names, stages, self._stop),
        )

    def report(self, report: StageReport) -> None:
        self._view.report(report)
        progress = self._progress
        assert progress is not None
        progress.take(report)
        for row in report.rows:
            self._callbacks.tell("on_row", row)
        for evaluation in report.evaluations:
            self._callbacks.tell("on_evaluation", evaluation)
        if report.rows and report.stage == len(progress.layers) - 1:
            # The speed of training: rows of an epoch's end come with a report of the test after it.
            self._callbacks.tell("on_speed", Speed(report.step, progress.trained_per_second, tuple(progress.busy)))
        self._begun = True
        if self._to_end:
            self._stop()

    def recovered(self, note: RecoveryNote) -> None:
        self._view.recovered(note)
        self._callbacks.tell("on_recovery", note)

    def go_on(self, layout: Layout, step: int) -> None:
        self._view.go_on(layout, step)
        if self._progress is not None:
            self._progress.go_on(layout, step)

    def note(self, text: str) -> None:
        self._view.note(text)
        self._callbacks.tell("on_note", text)

    def stop(self) -> None:
        self._view.stop()

    def ended(self, summary: Mapping[str, Any]) -> None:
        self._view.ended(summary)
        self._callbacks.tell("on_end", summary)

    def finish(self, run_dir: Path, errors: Mapping[str, float], seconds: float, start_seconds: float | None) -> None:
        self._view.finish(run_dir, errors, seconds, start_seconds)

    def _complain(self, name: str, error: Exception) -> None:
        why = describe_error(error)
        self._view.note(f"warning: callback {name} failed ({why}); the run goes on, and this is not said again")

    def _stop(self) -> None:
        """Let the run save and end; before its first report there is nothing to save, so that it ends with that."""
        self._to_end = True
        if self._begun and not self._interrupt.wished:  # a second wish would not let the run save
            self._interrupt.request()

    def _end(self, wish: BaseException) -> None:
        """Let the run save where a callback ends the program. Raises KeyboardInterrupt the second time."""
        # Before the first report the interrupt would raise, with nothing saved and no end told.
        if isinstance(wish, SystemExit) or not (self._begun or self._to_end):
            self._stop()
        else:
            self._interrupt.request()

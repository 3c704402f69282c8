"""What a run has to show: collects the stages' reports and keeps the run folder up to date with every snapshot."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.tally import LAST, SUM
from ffpipe.runs.folder import RunFolder, versions
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store, patiently
from ffpipe.system.errors import Unreachable, UserError
from ffpipe.telemetry.metrics import write_metrics
from ffpipe.telemetry.report import Evaluation, FailedFile, Past, RecoveryNote, StageReport, WrittenFile
from ffpipe.telemetry.spans import TraceFile


class RunLog:
    """Metrics, evaluations, recoveries, and snapshots, which it makes whole."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        store: Store,
        view: View,
        past: Past,
        newest: checkpoint.Manifest | None,
        asked_at: float,
    ) -> None:
        self.newest = newest
        self._past = past
        self._job = job
        self._folder = folder
        self._store = store
        self._view = view
        self._asked_at = asked_at
        self._layout: Layout | None = None
        self._files: dict[int, list[WrittenFile | FailedFile]] = {}
        self._latest: dict[int, StageReport] = {}
        self._trace = TraceFile(folder.trace) if job.config.execution.trace else None

    @property
    def step(self) -> int:
        """As far as any stage has been heard to be."""
        return max((report.step for report in self._latest.values()), default=0)

    @property
    def tested(self) -> bool:
        """Whether the test after the last step was made."""
        return any(e.split == "test" and e.step == self._job.steps for e in self._past.evaluations)

    def begin(self, layout: Layout) -> None:
        """The stages are new; what was not saved did not happen."""
        step = self.newest.step if self.newest else 0
        # Damaged, or we would go on from them. Written over in part they could seem whole again, without their metrics.
        checkpoint.forget_after(self._store, step)
        past = self._past
        past.train_seconds = self._train_seconds
        past.rows = [row for row in past.rows if row.step <= step]
        # Those of the very step of the snapshot come after it and are made again.
        past.evaluations = [evaluation for evaluation in past.evaluations if evaluation.step < step]
        self._layout, self._latest, self._files = layout, {}, {}

    def recovered(self, note: RecoveryNote) -> None:
        self._past.recoveries.append(note)
        self._view.note(f"{note.reason}; going on after step {note.from_step} with {note.stages} stage(s)")

    def take(self, report: StageReport) -> None:
        """One report of one stage."""
        self._latest[report.stage] = report
        self._past.rows += report.rows
        self._past.evaluations += report.evaluations
        for failure in report.failures:
            why = f"{failure.place}: {failure.reason}"
            self._view.note(f"warning: a snapshot could not be written: {why}; training goes on")
        files: list[WrittenFile | FailedFile] = [*report.files, *report.failures]
        for file in files:
            self._file(file)
        if self._trace is not None:
            name = f"stage {report.stage}: layers {', '.join(map(str, report.layers))}"
            try:
                self._trace.add(report.stage, name, report.spans)
            except OSError as error:  # of a full disk, say: nothing that a run needs is in it
                self._warn(error, str(self._folder.trace))
                self._trace = None
        self._view.report(report)

    def close(self, status: str) -> dict[str, Any]:
        """Finish the trace, write metrics and summary; returns the summary."""
        if self._trace is not None:
            with contextlib.suppress(OSError):
                self._trace.close()
        summary = self._summary(status)
        with contextlib.ExitStack() as rest:  # which is written whatever becomes of what a resumed run needs
            rest.callback(self._show, summary)
            self._write_past()
        return summary

    def _file(self, file: WrittenFile | FailedFile) -> None:
        """A snapshot is whole when every layer and the head have written their file.

        One that can't become whole is removed when nobody writes to it any more: on a full disk that makes room.
        """
        files = self._files.setdefault(file.step, [])
        files.append(file)
        if len(files) < self._job.layers + self._job.network.has_head:
            return
        del self._files[file.step]
        written = [each for each in files if isinstance(each, WrittenFile)]
        if len(written) < len(files):
            self._discard(file.step)
            return
        try:
            self._save_past()
            self.newest = patiently(lambda: checkpoint.write_manifest(self._store, file.step, written, self._job.input))
        except OSError as error:
            reason = error.strerror or error
            self._view.note(f"warning: snapshot of step {file.step} could not be made whole: {reason}")
            self._discard(file.step)
            return
        with self._going_on(self._store.root):  # first, which makes room on a full disk
            checkpoint.prune(self._store, self._job.config.execution.keep_snapshots)
        with self._going_on(str(self._folder.path)):
            self._show(self._summary("running"))

    def _save_past(self) -> None:
        """Before the manifest: whoever goes on from a snapshot finds what was known when it was made. Raises OSError
        where there would be no snapshot either; where these are elsewhere, the weights come first."""
        try:
            patiently(self._write_past)
        except OSError as error:
            if self._folder.holds(self._store):
                raise
            self._warn(error, str(self._folder.past))

    def _write_past(self) -> None:
        self._folder.write_past(replace(self._past, train_seconds=self._train_seconds))

    def _show(self, summary: dict[str, Any]) -> None:
        """What is for people and never read back: the summary whatever becomes of the metrics. Raises OSError."""
        with contextlib.ExitStack() as rest:
            rest.callback(self._folder.write_summary, summary)
            write_metrics(self._folder.metrics, self._past.rows, self._job.steps_per_epoch)

    @contextlib.contextmanager
    def _going_on(self, place: str) -> Iterator[None]:
        """What fails here is told and ends nothing."""
        try:
            yield
        except (OSError, Unreachable) as error:
            self._warn(error, place)

    def _warn(self, error: OSError | Unreachable, place: str) -> None:
        """place: where it was, for an error that does not know: that of a full disk."""
        where = f"{error.filename or place}: " if isinstance(error, OSError) else ""
        self._view.note(f"warning: {where}{getattr(error, 'strerror', None) or error}; training goes on")

    def _discard(self, step: int) -> None:
        """Remove what there is of a snapshot that did not become whole."""
        folder = checkpoint.folder_of(step)
        with contextlib.suppress(OSError, Unreachable):
            if folder not in checkpoint.whole_snapshots(self._store):
                checkpoint.remove(self._store, folder)

    @property
    def _train_seconds(self) -> float:
        """Of the whole run until now."""
        return self._past.train_seconds + max((report.train_seconds for report in self._latest.values()), default=0.0)

    def _summary(self, status: str) -> dict[str, Any]:
        training = self._job.config.training
        done = status == "finished"
        tests = [e for e in self._past.evaluations if e.split == "test"]
        stages = [self._latest[index] for index in sorted(self._latest)]
        seconds = self._train_seconds
        step = self.newest.step if self.newest else 0
        first = stages[0] if stages else None
        return {
            "recipe": self._job.config.recipe,
            "status": status,
            "engine": self._job.config.execution.engine,
            "stages": len(self._layout.stages) if self._layout else 0,
            "stage_layers": [list(spec.layers) for spec in self._layout.stages] if self._layout else [],
            "chunk": self._layout.plan.chunk if self._layout else 0,
            "window": self._layout.window if self._layout else 0,
            "steps": step,
            "epochs": training.epochs,
            "start_seconds": first.began_at + first.train_began - self._asked_at if first else None,
            "train_seconds": seconds,
            "examples_per_second": step * training.batch_size / seconds if seconds else None,
            "test_error_goodness": tests[-1].error_goodness if tests and done else None,
            "test_error_softmax": tests[-1].error_softmax if tests and done else None,
            **(_of_blocks(self._job, tests[-1]) if tests and done else {}),
            "weights_sha256": self.newest.weights_sha256 if self.newest else None,
            "recoveries": len(self._past.recoveries),
            "recovery_notes": [asdict(note) for note in self._past.recoveries],
            "peak_rss_bytes": [stage.peak_rss_bytes for stage in stages],
            "peak_device_bytes": [stage.peak_device_bytes for stage in stages],
            "efficiency": max((stage.busy_share for stage in stages), default=None),
            "time_shares": [
                {kind: s / stage.seconds for kind, s in stage.seconds_by_kind.items()}
                for stage in stages
                if stage.seconds
            ],
            "evaluations": [asdict(evaluation) for evaluation in self._past.evaluations],
            "written_at": time.time(),
            "versions": versions(),
        }


def _of_blocks(job: Job, test: Evaluation) -> dict[str, Any]:
    """What the summary of a network without negatives has beside: errors of its read-outs and of each block."""
    if not test.errors:
        return {}
    found: dict[str, Any] = {f"test_error_{name}": test.errors.get(name) for name in (LAST, SUM)}
    found["test_error_blocks"] = test.blocks
    if job.config.training.inputs == "tokens":
        nats = list(test.losses.values())[-1]
        found["test_bits_per_token"] = None if nats is None else nats / math.log(2)
    return found


def read_past(folder: RunFolder) -> tuple[Past, str]:
    """What a run has behind it, and why that is lost, which changes no weight. Raises Unreachable where it need not be
    lost."""
    try:
        return folder.read_past(), ""
    except Unreachable:
        raise
    except UserError as error:
        return Past(), str(error)

"""The log of a run: it collects the stages' reports and keeps the run folder up to date with every snapshot."""

from __future__ import annotations

import errno
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ffpipe.pipeline.job import Job, Layout
from ffpipe.runs.folder import RunFolder, versions
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import ReplicasDiffer, Unreachable, reason
from ffpipe.telemetry.report import (
    LAST,
    SUM,
    Evaluation,
    FailedFile,
    History,
    RecoveryNote,
    ReplicaFile,
    StageReport,
    WrittenFile,
)
from ffpipe.telemetry.spans import TraceFile

File = WrittenFile | ReplicaFile | FailedFile


@dataclass
class RunLog:
    """Metrics, evaluations, recoveries, and snapshots, which it makes whole.

    past: of the run until now, which grows. newest: the snapshot that the run goes on from, then the newest that is
    whole. asked_at: when the user asked for the run, in seconds since the epoch.
    """

    job: Job
    folder: RunFolder
    store: Store
    view: View
    past: History
    newest: checkpoint.Manifest | None
    asked_at: float

    def __post_init__(self) -> None:
        self._layout: Layout | None = None
        self._files: dict[int, list[File]] = {}
        self._latest: dict[int, StageReport] = {}
        self._peaks: dict[int, tuple[int, int]] = {}  # of the largest process of a stage, and on its GPU
        self._began_after: float | None = None
        self._is_there = False  # the folder, with a config
        # If nothing is left to train, what was measured in training stays: trace.json, and its part of the summary.
        at_end = self.newest if self.newest and self.newest.step == self.job.steps and self.tested else None
        self._measured = self.folder.measured(at_end.weights_sha256) if at_end else {}
        traced = self.job.config.execution.trace and not at_end
        self._trace = TraceFile(self.folder.trace) if traced else None

    @property
    def step(self) -> int:
        """The furthest step that any stage has reported; the view shows the last stage's, which is behind."""
        return max((report.step for report in self._latest.values()), default=0)

    @property
    def tested(self) -> bool:
        """True when the test after the last step was made."""
        return any(e.split == "test" and e.step == self.job.steps for e in self.past.evaluations)

    def begin(self, layout: Layout) -> Layout:
        """Begin with new stages, and forget what was not saved. Returns the layout, whose plan leaves out evaluations
        that have been made at the step of the newest snapshot."""
        step = self.newest.step if self.newest else 0
        # Those after it were found damaged. A few files of one, written anew, could make it seem whole though past.json
        # lacks its rows.
        checkpoint.forget_after(self.store, step)
        self._is_there = self.folder.config.exists()
        past = self.past
        # Before the latest reports go, which are a part of them.
        past.train_seconds, self._began_after = self._train_seconds, self._start_seconds
        past.rows = [row for row in past.rows if row.step <= step]
        past.evaluations = [evaluation for evaluation in past.evaluations if evaluation.step <= step]
        # Those of the very step of the snapshot come after it, so not all that are due need have been made.
        made = tuple(evaluation.split for evaluation in past.evaluations if evaluation.step == step)
        self._layout = layout = replace(layout, plan=replace(layout.plan, made=made))
        # Files of the stages before would count for snapshots that these write again.
        self._latest, self._peaks, self._files = {}, {}, {}
        return layout

    def recovered(self, note: RecoveryNote) -> None:
        self.past.recoveries.append(note)
        self.view.note(f"{note.reason}; going on after step {note.from_step} with {note.stages} stage(s)")
        self.view.recovered(note)

    def take(self, report: StageReport) -> None:
        """Take in one report of one stage, or of another of its replicas, which has spans for the trace and digests for
        snapshots. Raises ReplicasDiffer."""
        if not report.replica:
            self._latest[report.stage] = report
        memory, device = self._peaks.get(report.stage, (0, 0))
        self._peaks[report.stage] = max(memory, report.peak_rss_bytes), max(device, report.peak_device_bytes)
        # In this order: a snapshot of this very report is made whole below, and past.json must have its rows by then.
        self.past.rows += report.rows
        self.past.evaluations += report.evaluations
        for failure in report.failures:
            why = f"{failure.place}: {failure.reason}"
            self.view.note(f"warning: a snapshot could not be written: {why}; training goes on")
        files: list[File] = [*report.files, *report.failures]
        for file in files:
            self._file(file)
        self._traced(report)
        if not report.replica:
            self.view.report(report)

    def _traced(self, report: StageReport) -> None:
        """Write down the spans of a report where there is a trace."""
        if self._trace is None or self._layout is None:
            return
        replicas = self._layout.stages[report.stage].replicas
        which = f", replica {report.replica}" if replicas.counts[report.stage] > 1 else ""
        name = f"stage {report.stage}{which}: layers {', '.join(map(str, report.layers))}"
        trace, self._trace = self._trace, None  # given up where it fails: nothing that a run needs is in it
        with self._going_on(str(self.folder.trace)):
            trace.add(replicas.number(report.stage, report.replica), name, report.spans)
            self._trace = trace

    def close(self, status: str) -> dict[str, Any]:
        """Finish the trace, write metrics and summary; returns the summary."""
        if self._trace is not None:
            with suppress(OSError):
                self._trace.close()
        summary = self._summary(status)
        try:
            self._write_past(self.newest.step if self.newest else 0)
        finally:  # which is written whatever becomes of what a resumed run needs
            self._show(summary)
        return summary

    def _file(self, file: File) -> None:
        """Count a file of a snapshot, which is whole when every layer and the head have written theirs, and all other
        replicas have the same weights.

        One that can't become whole is removed when nobody writes to it any more: on a full disk that makes room.
        Raises ReplicasDiffer, and then there is no such snapshot to go on from.
        """
        files = self._files.setdefault(file.step, [])
        files.append(file)
        # Files that failed count too: with the last one it is known that the snapshot will not be whole.
        if len(files) < self._files_of_snapshot:
            return
        del self._files[file.step]
        written = [each for each in files if isinstance(each, WrittenFile)]
        if any(isinstance(each, FailedFile) for each in files):
            self._discard(file.step)
            return
        for each in written:
            same = (file for file in files if isinstance(file, ReplicaFile) and file.name == each.name)
            others = {other.replica: other.weights_sha256 for other in same}
            if unlike := _unlike({self._writer(each.name): each.weights_sha256, **others}):
                self._discard(file.step)
                raise ReplicasDiffer(
                    f"{unlike} after step {file.step}: a device or a host computes wrongly, go on without it"
                )
        try:
            # Before the manifest: whoever goes on from a snapshot finds what was known when it was made. If snapshots
            # are on another disk, a past.json that cannot be written is not to cost the snapshot.
            with nullcontext() if self.folder.holds(self.store) else self._going_on(str(self.folder.past)):
                self.store.with_retries(partial(self._write_past, file.step))
            write = partial(checkpoint.write_manifest, self.store, file.step, written, self.job.input)
            self.newest = self.store.with_retries(write)
        except OSError as error:
            self.view.note(f"warning: snapshot of step {file.step} could not be made whole: {reason(error)}")
            # Elsewhere a write that was given up may still come to its end: no manifest is to outlive its files.
            if self.store.is_local:
                self._discard(file.step)
            return
        with self._going_on(self.store.root):  # first, which makes room on a full disk
            checkpoint.prune(self.store, self.job.config.execution.keep_snapshots)
        with self._going_on(str(self.folder.path)):
            self._show(self._summary("running"))

    def _writer(self, file: str) -> str:
        """Name the replica that writes a file of snapshots."""
        assert self._layout is not None
        *before, last = self._layout.stages
        wrote = (spec for spec in before if any(checkpoint.layer_file(index) == file for index in spec.layers))
        return str(next(wrote, last))

    @property
    def _files_of_snapshot(self) -> int:
        """Count the files of a snapshot, each as often as there are replicas that have its weights."""
        assert self._layout is not None
        counts = [spec.replicas.counts[spec.index] for spec in self._layout.stages]
        layers = sum(len(spec.layers) * count for spec, count in zip(self._layout.stages, counts, strict=True))
        return layers + counts[-1] * self.job.network.has_head

    def _write_past(self, saved: int) -> None:
        if self._is_there and not self.folder.config.exists():  # its name would be made anew, beside what has moved
            raise FileNotFoundError(errno.ENOENT, "the run folder was moved or removed", str(self.folder.path))
        self.folder.write_past(replace(self.past, saved=saved, train_seconds=self._train_seconds))

    def _show(self, summary: dict[str, Any]) -> None:
        """Write what is for people, and no run needs: the summary whatever becomes of the metrics. Raises OSError."""
        try:
            self.folder.write_metrics(self.past, self.job.steps_per_epoch)
        finally:
            self.folder.write_summary(summary)

    @contextmanager
    def _going_on(self, place: str) -> Iterator[None]:
        """Note what fails within and go on. place: named where the error does not know its own, as on a full disk."""
        try:
            yield
        except OSError as error:
            self.view.note(f"warning: {error.filename or place}: {reason(error)}; training goes on")
        except Unreachable as error:
            self.view.note(f"warning: {error}; training goes on")

    def _discard(self, step: int) -> None:
        """Remove what there is of a snapshot that did not become whole, if its place answers. The rest has no manifest,
        and goes with the first prune after a later snapshot is whole."""
        folder = checkpoint.folder_of(step)
        with suppress(OSError, Unreachable):
            if folder not in checkpoint.whole_snapshots(self.store):
                checkpoint.remove(self.store, folder)

    @property
    def _start_seconds(self) -> float | None:
        """Seconds until training began, before the first recovery if there was one; None: it has not begun yet."""
        if self._began_after is not None or not self._latest:
            return self._began_after
        first = self._latest[min(self._latest)]
        return first.began_at + first.train_began - self.asked_at

    @property
    def _train_seconds(self) -> float:
        """Seconds of training of the whole run until now."""
        return self.past.train_seconds + max((report.train_seconds for report in self._latest.values()), default=0.0)

    def _summary(self, status: str) -> dict[str, Any]:
        config, layout, past = self.job.config, self._layout, self.past
        stages = [self._latest[index] for index in sorted(self._latest)]
        seconds = self._train_seconds
        # The step of what is saved, as the digest of the weights is: stages may be further.
        step = self.newest.step if self.newest else 0
        tests = [e for e in past.evaluations if e.split == "test"] if status == "finished" else []
        return {
            "recipe": config.recipe,
            "status": status,
            "engine": config.execution.engine,
            "stages": len(layout.stages) if layout else 0,
            "stage_layers": [list(spec.layers) for spec in layout.stages] if layout else [],
            "replicas": [spec.replicas.counts[spec.index] for spec in layout.stages] if layout else [],
            "chunk": layout.plan.chunk if layout else 0,
            "window": layout.window if layout else 0,
            "steps": step,
            "epochs": config.training.epochs,
            "steps_per_epoch": self.job.steps_per_epoch,
            "start_seconds": self._start_seconds,
            "train_seconds": seconds,
            "examples_per_second": step * config.training.batch_size / seconds if seconds else None,
            "test_error_goodness": tests[-1].error_goodness if tests else None,
            "test_error_softmax": tests[-1].error_softmax if tests else None,
            **(_of_blocks(self.job, tests[-1]) if tests else {}),
            "weights_sha256": self.newest.weights_sha256 if self.newest else None,
            "recoveries": len(past.recoveries),
            "recovery_notes": [asdict(note) for note in past.recoveries],
            "peak_rss_bytes": [self._peaks[stage.stage][0] for stage in stages],
            "peak_device_bytes": [self._peaks[stage.stage][1] for stage in stages],
            "efficiency": max((stage.busy_share for stage in stages), default=None),
            "time_shares": [
                {kind: s / stage.seconds for kind, s in stage.seconds_by_kind.items()}
                for stage in stages
                if stage.seconds
            ],
            "evaluations": [asdict(evaluation) for evaluation in past.evaluations],
            "written_at": time.time(),
            "versions": versions(),
            **self._measured,
        }


def _unlike(weights: Mapping[str, str]) -> str:
    """Say which replicas have other weights than most have, or where no weights are those of most, that they differ.
    weights: a digest for each name. Returns "" where all are the same."""
    (most, count), *others = Counter(weights.values()).most_common()
    if not others:
        return ""
    if count == others[0][1]:
        return f"{' and '.join(sorted(weights))} had different weights"
    unlike = sorted(name for name, digest in weights.items() if digest != most)
    return f"{' and '.join(unlike)} had other weights than the other {count} replicas"


def _of_blocks(job: Job, test: Evaluation) -> dict[str, Any]:
    """Return the errors of read-outs and blocks of a network without negatives, for its summary; else nothing."""
    if not test.errors:
        return {}
    found: dict[str, Any] = {f"test_error_{name}": test.errors.get(name) for name in (LAST, SUM)}
    found["test_error_blocks"] = test.blocks
    if job.config.training.inputs == "tokens":
        nats = list(test.losses.values())[-1]
        found["test_bits_per_token"] = None if nats is None else nats / math.log(2)
    return found

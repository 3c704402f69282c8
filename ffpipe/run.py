"""One run from config to result: check, lay out, start the engine, keep what the stages report."""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ffpipe import checkpoint
from ffpipe.config import Config, checked
from ffpipe.errors import RunFailed, UserError
from ffpipe.pipeline.job import Engine, Job, Layout, make_job
from ffpipe.pipeline.local import LocalEngine
from ffpipe.pipeline.ray_settings import prepare_ray
from ffpipe.runs import RunFolder, check_new, new_run
from ffpipe.telemetry.metrics import write_metrics
from ffpipe.telemetry.report import Evaluation, LayerRow, StageReport, WrittenFile
from ffpipe.telemetry.spans import TraceFile
from ffpipe.telemetry.view import QuietView, View


@dataclass(frozen=True)
class Result:
    """What came out of a run; the errors are fractions of the test split, None where not trained."""

    run_dir: Path
    test_error_goodness: float | None
    test_error_softmax: float | None
    weights_sha256: str
    summary: dict[str, Any]


def train(config: Config, view: View | None = None) -> Result:
    """Do what `ffpipe train` does with this config.

    Writes the run folder and returns what is in it. Raises UserError, before anything is written, where
    the config asks for what cannot be; RunFailed where the run broke off.
    """
    asked_at = time.time()
    config = checked(config)
    check_new(config)
    job = make_job(config)
    engine = make_engine(config.execution.engine)
    try:
        layout = engine.layout(job)
        folder = new_run(config)
        try:
            return _run(asked_at, job, layout, engine, folder, view or QuietView())
        except UserError:
            shutil.rmtree(folder.path)
            raise
    finally:
        engine.close()


def make_engine(name: str) -> Engine:
    """The engine called "local" or "ray". Ray is imported only where it is used."""
    if name == "local":
        return LocalEngine()
    prepare_ray()
    from ffpipe.pipeline.ray_engine import RayEngine

    return RayEngine()


def _run(asked_at: float, job: Job, layout: Layout, engine: Engine, folder: RunFolder, view: View) -> Result:
    log = RunLog(asked_at, job, layout, folder, view)
    view.start(job, layout, folder.path)
    try:
        try:
            engine.run(job, layout, folder.checkpoints, log.take)
        finally:
            view.stop()
            log.close()
            write_metrics(folder.metrics, log.rows, job.steps_per_epoch)
        summary = log.summary()
        folder.write_summary(summary)
    except OSError as error:
        raise RunFailed(f"{error.filename or folder.path}: {error.strerror or error}") from error
    result = Result(
        folder.path,
        summary["test_error_goodness"],
        summary["test_error_softmax"],
        summary["weights_sha256"],
        summary,
    )
    view.finish(result.run_dir, result.test_error_goodness, result.test_error_softmax, summary["train_seconds"])
    return result


class RunLog:
    """Collects the stages' reports: metrics, evaluations, and snapshots, which it makes whole."""

    def __init__(self, asked_at: float, job: Job, layout: Layout, folder: RunFolder, view: View) -> None:
        self.rows: list[LayerRow] = []
        self.evaluations: list[Evaluation] = []
        self._asked_at = asked_at
        self._job = job
        self._layout = layout
        self._folder = folder
        self._view = view
        self._files: dict[int, list[WrittenFile]] = {}
        self._newest: checkpoint.Manifest | None = None
        self._latest: dict[int, StageReport] = {}
        self._trace = TraceFile(folder.trace) if job.config.execution.trace else None

    def take(self, report: StageReport) -> None:
        """One report of one stage."""
        self._latest[report.stage] = report
        self.rows += report.rows
        self.evaluations += report.evaluations
        for file in report.files:
            self._file(file)
        if self._trace is not None:
            name = f"stage {report.stage}: layers {', '.join(map(str, report.layers))}"
            self._trace.add(report.stage, name, report.spans)
        self._view.report(report)

    def close(self) -> None:
        """Finish the trace."""
        if self._trace is not None:
            self._trace.close()

    def _file(self, file: WrittenFile) -> None:
        """A snapshot is whole when every layer and the head have written their file."""
        files = self._files.setdefault(file.step, [])
        files.append(file)
        training = self._job.config.training
        if len(files) == self._job.layers + training.head:
            takes = checkpoint.Input(self._job.splits.shape, self._job.width, self._job.splits.classes)
            keep = self._job.config.execution.keep_snapshots
            self._newest = checkpoint.write_manifest(self._folder.checkpoints, file.step, files, takes, keep)
            del self._files[file.step]

    def summary(self) -> dict[str, Any]:
        """summary.json. Raises RunFailed where the run ended without its last snapshot."""
        if self._newest is None or self._newest.step != self._job.steps:
            raise RunFailed(f"the run ended without its last snapshot, of step {self._job.steps}")
        training = self._job.config.training
        test = next((e for e in reversed(self.evaluations) if e.split == "test"), None)
        stages = [self._latest[index] for index in sorted(self._latest)]
        seconds = max(stage.train_seconds for stage in stages)
        return {
            "recipe": self._job.config.recipe,
            "engine": self._job.config.execution.engine,
            "stages": len(self._layout.stages),
            "stage_layers": [list(spec.layers) for spec in self._layout.stages],
            "chunk": self._layout.plan.chunk,
            "window": self._layout.window,
            "steps": self._job.steps,
            "epochs": training.epochs,
            "start_seconds": stages[0].began_at + stages[0].train_began - self._asked_at,
            "train_seconds": seconds,
            "examples_per_second": self._job.steps * training.batch_size / seconds,
            "test_error_goodness": test.error_goodness if test else None,
            "test_error_softmax": test.error_softmax if test else None,
            "weights_sha256": self._newest.weights_sha256,
            "recoveries": 0,
            "peak_rss_bytes": [stage.peak_rss_bytes for stage in stages],
            "efficiency": max(stage.busy_share for stage in stages),
            "time_shares": [
                {kind: seconds / stage.seconds for kind, seconds in stage.seconds_by_kind.items()} for stage in stages
            ],
            "evaluations": [
                {
                    "step": e.step,
                    "split": e.split,
                    "error_goodness": e.error_goodness,
                    "error_softmax": e.error_softmax,
                }
                for e in self.evaluations
            ],
            "versions": {
                "python": platform.python_version(),
                "torch": version("torch"),
                "ray": version("ray"),
                "ffpipe": version("ffpipe"),
            },
        }

"""One run from config to result: check, lay out, start the engine, recover, keep what the stages report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffpipe import checkpoint
from ffpipe.config import Config, Execution
from ffpipe.contents import snapshot_contents
from ffpipe.errors import ClusterLost, Diverged, Interrupted, RunFailed, StageLost, Unreachable, UserError
from ffpipe.fields import checked, override
from ffpipe.pipeline import spoolfolder
from ffpipe.pipeline.budget import within_budget
from ffpipe.pipeline.job import Engine, Job, Layout, Start, make_job, refuse_beyond_this_host
from ffpipe.pipeline.layerwise import LayerwiseEngine
from ffpipe.pipeline.local import LocalEngine
from ffpipe.pipeline.plan import Estimate, bare_process, draft_layout, estimate_layout
from ffpipe.pipeline.ray_settings import prepare_ray
from ffpipe.pipeline.recovery import GiveUp, Recovery
from ffpipe.runlog import RunLog, read_past
from ffpipe.runs import RunFolder, check_new, new_run, open_run
from ffpipe.store import Store
from ffpipe.telemetry.report import Past, RecoveryNote
from ffpipe.telemetry.view import QuietView, View


@dataclass(frozen=True)
class Result:
    """What came out of a run; the errors are fractions of the test split, None where not trained."""

    run_dir: Path
    test_error_goodness: float | None
    test_error_softmax: float | None
    weights_sha256: str
    summary: dict[str, Any]


class Interrupt:
    """A wish that the run end: the first lets it save, the second does not wait. Safe in a signal handler."""

    def __init__(self) -> None:
        self.wished = False
        self._tell: Callable[[], None] | None = None

    def request(self) -> None:
        """Raises KeyboardInterrupt where there is nothing to save, or the second time."""
        if self.wished or self._tell is None:
            raise KeyboardInterrupt
        self.wished = True
        self._tell()

    def goes_to(self, tell: Callable[[], None] | None) -> None:
        """Who is to be told; None: nobody can save anything."""
        self._tell = tell


def train(config: Config, view: View | None = None, interrupt: Interrupt | None = None) -> Result:
    """Do what `ffpipe train` does with this config.

    Writes the run folder and returns what is in it. Raises UserError, before anything is written, where
    the config asks for what cannot be; RunFailed where the run broke off; Interrupted where it was asked to.
    """
    asked_at = time.time()
    config = checked(config)
    check_new(config)
    if config.training.method == "backprop":
        from ffpipe.backprop import train_backprop  # which needs what is here

        return train_backprop(config, view, interrupt)
    spoolfolder.make_room(config.execution, None)
    asked, job, notes = _make_job(config)
    engine = make_engine(job.config.execution)
    try:
        layout = _noted(engine.layout(job), notes)
        folder = new_run(asked)
        with folder.lock():
            try:
                store = folder.store(config)
                if checkpoint.whole_snapshots(store):
                    raise UserError(f"{store.root} holds the snapshots of another run: give another place for these")
                engine.check_store(store)
                log = RunLog(job, folder, store, view or QuietView(), Past(), None, asked_at)
            except UserError:
                shutil.rmtree(folder.path)
                raise
            return Run(job, engine, folder, log, view or QuietView(), interrupt or Interrupt()).go(layout)
    finally:
        engine.close()


def resume(
    run: str | Path,
    changes: dict[str, Any] | None = None,
    view: View | None = None,
    interrupt: Interrupt | None = None,
) -> Result:
    """Go on with a run, finished or broken off, from its newest whole snapshot, or from the start where it has none.

    changes: fields by dotted name (`execution.*`, and `training.epochs`). Raises UserError where the folder is no
    run, where another process works on it, or where another field of `training` would change.
    """
    asked_at = time.time()
    view = view or QuietView()
    folder, before = open_run(run)
    config = override(before, changes or {})
    if replace(config.training, epochs=before.training.epochs) != before.training:
        raise UserError("a run goes on with what it began with: of training only training.epochs can be changed")
    with folder.lock():
        spoolfolder.make_room(config.execution, folder.path)
        # The spool goes to the run folder, wherever that is now.
        asked, job, notes = _make_job(override(config, {"execution.run_dir": str(folder.path.absolute())}))
        store = folder.store(config)
        snapshot = newest_whole(store, job, view)
        if snapshot and snapshot.step > job.steps:
            raise UserError(f"run {run} is at step {snapshot.step}, past the end of {config.training.epochs} epochs")
        engine = make_engine(job.config.execution)
        try:
            layout = _noted(engine.layout(job), notes)
            engine.check_store(store)
            folder.write_config(asked)
            log = RunLog(job, folder, store, view, read_past(folder, snapshot, view), snapshot, asked_at)
            return Run(job, engine, folder, log, view, interrupt or Interrupt()).go(layout)
        finally:
            engine.close()


def _make_job(config: Config) -> tuple[Config, Job, tuple[str, ...]]:
    """The config that a run keeps, its job, within its budget, and what a person should know of that.

    What is chosen for a budget is not kept: a run that goes on, with another budget perhaps, chooses anew.
    """
    process = bare_process(config) if config.execution.memory_budget else 0
    asked = make_job(config)
    job, notes = within_budget(asked, process)
    refuse_beyond_this_host(job)
    return asked.config, job, notes


def planned(config: Config) -> tuple[Job, Estimate, tuple[str, ...]]:
    """What a run of this config would take, and what was chosen for its budget. Nothing is written or started.

    Raises UserError as `train` would.
    """
    config = checked(config)
    if config.training.method == "backprop":
        raise UserError("training.method is 'backprop', which is not planned: leave it out")
    process = bare_process(config)
    job, notes = within_budget(make_job(config), process)
    return job, estimate_layout(job, draft_layout(job), process), notes


def _noted(layout: Layout, notes: tuple[str, ...]) -> Layout:
    return replace(layout, notes=(*notes, *layout.notes))


def newest_whole(store: Store, job: Job, view: View) -> checkpoint.Manifest | None:
    """The newest snapshot of which every file is what this job writes; damaged ones are named and passed over.

    Raises Unreachable where that cannot be known.
    """
    for folder in reversed(checkpoint.whole_snapshots(store)):
        try:
            return verified(store, folder, job)
        except Unreachable:
            raise
        except UserError as error:
            view.note(f"warning: {error}; trying the snapshot before it")
    return None


def verified(store: Store, folder: str, job: Job) -> checkpoint.Manifest:
    """Read every file of a snapshot once. Raises UserError naming the first that is wrong or missing."""
    manifest = checkpoint.read_manifest(store, folder)
    if manifest.input != job.input:
        raise UserError(f"checkpoint {store.place(folder)} is of a network for {manifest.input}, not for {job.input}")
    for name, contents in snapshot_contents(job.config.training, manifest.input, manifest.step).items():
        checkpoint.read_tensors(store, folder, manifest, name, contents)
    return manifest


def make_engine(execution: Execution) -> Engine:
    """The engine that was asked for. Ray is imported only where it is used."""
    if execution.engine != "ray":
        return LocalEngine() if execution.engine == "local" else LayerwiseEngine()
    prepare_ray()
    from ffpipe.pipeline.ray_engine import RayEngine

    return RayEngine(object_store_bytes=execution.object_store_bytes)


class Run:
    """Works a job to its end, from one whole snapshot to the next if need be."""

    def __init__(
        self, job: Job, engine: Engine, folder: RunFolder, log: RunLog, view: View, interrupt: Interrupt
    ) -> None:
        self.job = job
        self.engine = engine
        self.folder = folder
        self.log = log
        self.view = view
        self.interrupt = interrupt
        self.store = folder.store(job.config)

    def go(self, layout: Layout) -> Result:
        """Raises RunFailed, Interrupted."""
        try:
            status, summary = self._to_its_end(layout)
        except OSError as error:
            why = f"{error.filename or self.folder.path}: {error.strerror or error}"
            raise RunFailed(f"{why}; {self._rescue()}") from error
        if status == "interrupted":
            raise Interrupted(f"saved after step {summary['steps']}; go on with: ffpipe resume {self.folder.path}")
        result = Result(
            self.folder.path,
            summary["test_error_goodness"],
            summary["test_error_softmax"],
            summary["weights_sha256"],
            summary,
        )
        self.view.finish(
            result.run_dir, result.test_error_goodness, result.test_error_softmax, summary["train_seconds"]
        )
        return result

    def _to_its_end(self, layout: Layout) -> tuple[str, dict[str, Any]]:
        """Status and summary, which is written however the run ends."""
        self.view.start(self.job, layout, self.folder.path)
        for note in layout.notes:
            self.view.note(note)
        status = "failed"
        try:
            self._work(layout)
            newest = self.log.newest
            if newest is not None and newest.step == self.job.steps and not self._unfinished():
                status = "finished"
            elif self.interrupt.wished:
                status = "interrupted"
            else:
                raise RunFailed(f"the last snapshot, of step {self.job.steps}, could not be written; {self._rescue()}")
        finally:
            self.interrupt.goes_to(None)
            self.view.stop()
            summary = self.log.close(status)
        return status, summary

    def _work(self, layout: Layout) -> None:
        """The plan, with recoveries."""
        execution = self.job.config.execution
        recovery = Recovery(execution.attempts, execution.back_off)
        while True:
            start = self._start()
            self.log.begin(layout)
            self.interrupt.goes_to(self.engine.interrupt)
            try:
                self.engine.run(self.job, layout, self.store, start, self.folder.path, self.log.take)
                return
            except (Diverged, ClusterLost) as error:
                raise type(error)(f"{error}; {self._rescue()}") from error
            except RunFailed as error:
                reached = self.log.step
                decision = recovery.failed("lost" if isinstance(error, StageLost) else "error", self._start().step)
                if isinstance(decision, GiveUp) or self.interrupt.wished:
                    why = decision.why if isinstance(decision, GiveUp) else "the run was to end"
                    raise RunFailed(f"{error} ({why}); {self._rescue()}") from error
                time.sleep(decision.wait)
                try:
                    layout = self.engine.layout_again(self.job, self.store)
                except RunFailed as nowhere:
                    raise RunFailed(f"{error}; {nowhere}; {self._rescue()}") from nowhere
                try:
                    self.log.newest = newest_whole(self.store, self.job, self.view)
                except Unreachable as unknown:
                    raise RunFailed(f"{error}; {unknown}; {self._rescue()}") from unknown
                step = self._start().step
                self.log.recovered(RecoveryNote(str(error), step, max(0, reached - step), len(layout.stages)))

    def _start(self) -> Start:
        newest = self.log.newest
        return Start(newest.step, checkpoint.folder_of(newest.step)) if newest else Start()

    def _unfinished(self) -> bool:
        """Whether an interrupt came between the last snapshot and the evaluation after it."""
        return self.interrupt.wished and not self.log.tested

    def _rescue(self) -> str:
        newest = self.log.newest
        if newest is None:
            return "there is no snapshot to go on from"
        place = self.store.place(checkpoint.folder_of(newest.step))
        return f"what there was after step {newest.step} is in {place}; go on with: ffpipe resume {self.folder.path}"

"""A run at work: from one whole snapshot to the next, with recoveries in between, to its end and its summary."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ffpipe.pipeline.job import Engine, Job, Layout, Start
from ffpipe.pipeline.snapshot_schema import snapshot_schema
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.inspection import resume_command
from ffpipe.runs.interrupt import Interrupt
from ffpipe.runs.log import RunLog
from ffpipe.runs.recovery import Again, GiveUp, Recovery
from ffpipe.runs.resumed import newest_whole
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.system.errors import (
    ClusterLost,
    Diverged,
    Interrupted,
    ReplicasDiffer,
    RunFailed,
    StageLost,
    Unreachable,
    UserError,
    reason,
)
from ffpipe.telemetry.report import RecoveryNote, errors_by_readout


@dataclass(frozen=True)
class Result:
    """The result of a run; the errors are fractions of the test split, None where not trained."""

    run_dir: Path
    test_error_goodness: float | None
    test_error_softmax: float | None
    weights_sha256: str
    summary: dict[str, Any]

    @property
    def test_errors(self) -> dict[str, float]:
        """The test error of every read-out that was tested, by name."""
        return errors_by_readout(self.summary)


@dataclass
class Run:
    """The work of a job to its end, from one whole snapshot to the next if need be."""

    job: Job
    engine: Engine
    folder: RunFolder
    log: RunLog
    view: View
    interrupt: Interrupt

    def go(self, layout: Layout) -> Result:
        """Run to the end. Raises RunFailed, Interrupted."""
        try:
            status, summary = self._to_its_end(layout)
        except OSError as error:
            why = f"{error.filename or self.folder.path}: {reason(error)}"
            raise RunFailed(f"{why}; {self._rescue()}") from error
        if status == "interrupted":
            raise Interrupted(f"saved after step {summary['steps']}; {self._goes_on}")
        goodness, softmax = summary["test_error_goodness"], summary["test_error_softmax"]
        result = Result(self.folder.path, goodness, softmax, summary["weights_sha256"], summary)
        seconds = summary["train_seconds"], summary["start_seconds"]
        self.view.finish(result.run_dir, result.test_errors, *seconds)
        return result

    def _to_its_end(self, layout: Layout) -> tuple[str, dict[str, Any]]:
        """Return status and summary, which is written however the run ends."""
        self.view.start(self.job, layout, self.folder.path, self._newest_step)
        for note in layout.notes:
            self.view.note(note)
        status = "failed"
        try:
            self._work(layout)
            newest = self.log.newest
            # An interrupt may have come between the last snapshot and the evaluation after it.
            tested = self.log.tested or not self.interrupt.wished
            if newest is not None and newest.step == self.job.steps and tested:
                status = "finished"
            # On a full disk an interrupt saves nothing, and is not said to have.
            elif self.interrupt.wished and self._newest_step >= self.log.step:
                status = "interrupted"
            else:
                raise RunFailed(f"the last snapshot, of step {self.log.step}, could not be written; {self._rescue()}")
        except BaseException:
            with suppress(OSError):  # which would hide what went wrong
                self._close(status)
            raise
        return status, self._close(status)

    def _close(self, status: str) -> dict[str, Any]:
        self.interrupt.goes_to(lambda: None)  # what there is to save is being saved
        self.view.stop()
        summary = self.log.close(status)
        self.view.ended(summary)
        return summary

    def _work(self, layout: Layout) -> None:
        """Work the plan, with recoveries."""
        execution = self.job.config.execution
        store, recovery = self.log.store, Recovery(execution.attempts, execution.back_off)
        try:
            layout = store.with_retries(partial(self.log.begin, layout))
        except Unreachable as error:
            raise RunFailed(f"{error}; {self._rescue()}") from error
        while True:
            start = self._start()
            self.interrupt.goes_to(self.engine.interrupt)
            try:
                self.engine.run(self.job, layout, store, start, self.folder.path, self.log.take)
                return
            except (Diverged, ClusterLost, ReplicasDiffer) as error:  # no stages built anew would come further
                raise type(error)(f"{error}; {self._rescue()}") from error
            except RunFailed as error:
                # Asked now: `begin` forgets what was not saved.
                reached = self.log.step
                layout = self._laid_out_again(recovery, error)
                # Noted only now, since the note says how many stages the run goes on with.
                step = self._newest_step
                self.log.recovered(RecoveryNote(str(error), step, max(0, reached - step), len(layout.stages)))
                self.view.go_on(layout, step)

    def _laid_out_again(self, recovery: Recovery, error: RunFailed) -> Layout:
        """Return a layout to go on with after an error. A stage that is lost while stages are placed is one more
        failure. Raises RunFailed where the run does not go on."""
        store = self.log.store
        while True:
            decision = recovery.failed("lost" if isinstance(error, StageLost) else "error", self._newest_step)
            if isinstance(decision, Again) and not self.interrupt.wished:
                self.interrupt.pause(decision.wait)
            # Asked after the pause too, in which a wish may have come.
            if isinstance(decision, GiveUp) or self.interrupt.wished:
                why = decision.why if isinstance(decision, GiveUp) else "the run was to end"
                raise RunFailed(f"{error} ({why}); {self._rescue()}") from error
            try:
                layout = self.engine.layout_again(self.job, store)
                # Read anew: a file of the newest one may have been cut or removed while the run was at work.
                self.log.newest = store.with_retries(lambda: newest_whole(store, self.job, self.view))
                return store.with_retries(partial(self.log.begin, layout))
            except StageLost as lost:
                error = lost
            except (RunFailed, UserError) as nowhere:
                raise RunFailed(f"{error}; {nowhere}; {self._rescue()}") from nowhere

    @property
    def _newest_step(self) -> int:
        return self.log.newest.step if self.log.newest else 0

    def _start(self) -> Start:
        newest = self.log.newest
        if newest is None:
            return Start()
        contents = snapshot_schema(self.job.network, newest.step)
        return Start(newest.step, checkpoint.folder_of(newest.step), contents)

    def _rescue(self) -> str:
        newest = self.log.newest
        if newest is None:
            return "there is no snapshot to go on from"
        place = self.log.store.place(checkpoint.folder_of(newest.step))
        return f"what there was after step {newest.step} is in {place}; {self._goes_on}"

    @property
    def _goes_on(self) -> str:
        return f"go on with: {resume_command(self.folder.path, self.job.config.training)}"

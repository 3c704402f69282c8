"""One run from config to result: check, lay out, start the engine, recover, keep what the stages report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from ffpipe.config.fields import checked, override
from ffpipe.config.schema import Config, Execution
from ffpipe.engines.layerwise import spoolfolder
from ffpipe.engines.layerwise.engine import LayerwiseEngine
from ffpipe.engines.local import LocalEngine
from ffpipe.engines.ray.settings import PREFIX, folder_of_clusters, load_ray, prepare_ray
from ffpipe.pipeline.contents import snapshot_contents
from ffpipe.pipeline.job import Engine, Job, Layout, Model, Start, make_job, refuse_beyond_this_host
from ffpipe.planning.budget import within_budget
from ffpipe.planning.estimate import Estimate, bare_process, draft_layout, estimate_layout
from ffpipe.runs import places
from ffpipe.runs.folder import RunFolder, new_run
from ffpipe.runs.follow import Followed
from ffpipe.runs.interrupt import Interrupt
from ffpipe.runs.log import RunLog
from ffpipe.runs.model import Given, with_model
from ffpipe.runs.recovery import GiveUp, Recovery
from ffpipe.runs.resumed import resumed
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store, patiently
from ffpipe.system.errors import (
    ClusterLost,
    Diverged,
    Interrupted,
    Misfit,
    RunFailed,
    StageLost,
    Unreachable,
    UserError,
)
from ffpipe.system.leftovers import sweep
from ffpipe.telemetry.callbacks import Callback
from ffpipe.telemetry.report import Past, RecoveryNote
from ffpipe.telemetry.tensorboard import TensorBoard


@dataclass(frozen=True)
class Result:
    """The result of a run; the errors are fractions of the test split, None where not trained.

    test_errors: of every read-out that the network has, by name.
    """

    run_dir: Path
    test_error_goodness: float | None
    test_error_softmax: float | None
    weights_sha256: str
    summary: dict[str, Any]

    @property
    def test_errors(self) -> dict[str, float]:
        named = {name: self.summary.get(f"test_error_{name}") for name in ("goodness", "softmax", "last", "sum")}
        return {name: error for name, error in named.items() if error is not None}


def train(
    config: Config,
    view: View | None = None,
    interrupt: Interrupt | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Do what `ffpipe train` does with this config.

    view: is told how the run goes. interrupt: asks it to save and end. model: the network, as a function that returns
    its blocks or the name of one; it takes the place of `training.model`. allow_code: names of code that the config may
    have imported. callbacks: follow the run. Writes the run folder and returns what is in it. Raises UserError, and
    leaves no run folder, where the config asks for what cannot be; RunFailed where the run broke off; Interrupted where
    it was asked to.
    """
    config, of_user = with_model(checked(config), model, allow_code, "the config")
    config = _in_one_piece(config)
    view, interrupt = _followed(config, view, interrupt, callbacks)
    return _carry_out(config, of_user, new_run(config), False, view, interrupt)


def resume(
    run: str | Path,
    changes: dict[str, Any] | None = None,
    view: View | None = None,
    interrupt: Interrupt | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Go on with a run, finished or broken off, from its newest whole snapshot, or from the start where it has none.

    changes: fields by dotted name (`execution.*`, `training.epochs`, and the places of the same data,
    `training.data.train` and `.test`). view, interrupt, callbacks: as for `train`. model, allow_code: consent to import
    the code that the run names. Raises UserError where the folder is no run, where it names code without consent or
    code that has changed, where it leads outside of itself without the user's word (places.py), where another process
    works on it, where another field of `training` would change or the run is past those epochs, where its data are
    others now, and where its place for snapshots has those of another run or another network; RunFailed and Interrupted
    as `train` does.
    """
    found = resumed(run, changes or {}, model, allow_code)
    view, interrupt = _followed(found.config, view, interrupt, callbacks)
    return _carry_out(found.config, found.model, found.folder, True, view, interrupt)


def _followed(
    config: Config, view: View | None, interrupt: Interrupt | None, callbacks: Sequence[Callback]
) -> tuple[View, Interrupt]:
    """Return the view of a run, with callbacks beside it where there are any, and what ends the run. Raises
    UserError."""
    view, interrupt = view or View(), interrupt or Interrupt()
    callbacks = [*callbacks, *([TensorBoard()] if config.execution.tensorboard else [])]
    return Followed(view, callbacks, interrupt) if callbacks else view, interrupt


def _carry_out(
    config: Config, model: Model, folder: RunFolder, goes_on: bool, view: View, interrupt: Interrupt
) -> Result:
    """Train from the beginning, or go on with the run in the folder.

    A new folder is made as soon as the config is known to fit the data and the engine, and removed where the run cannot
    begin all the same.
    """
    asked_at = time.time()
    # The spool goes to the run folder, wherever that is now.
    config = override(config, {"execution.run_dir": str(folder.path.absolute())})
    store = folder.store(config)
    with ExitStack() as held, ExitStack() as unless_begun, interrupt.until_the_end():
        warning = held.enter_context(folder.lock()) if goes_on else ""
        spoolfolder.make_room(config.execution, folder.path if goes_on else None)
        asked, job, notes = _make_job(config, model)
        if goes_on:
            past, name, snapshot = _past_of(folder, store, job, view)
        else:
            past, name, snapshot = Past(code=job.network.code.sha256 if job.network.code else ""), uuid4().hex, None
        engine = make_engine(job.config.execution)
        held.callback(engine.close)
        layout = engine.layout(job)
        if not goes_on:
            folder.make()
            unless_begun.callback(shutil.rmtree, folder.path, ignore_errors=True)
            warning = held.enter_context(folder.lock())
            # Listed first: a store that refuses that may answer all the same when it is asked for one file.
            if checkpoint.whole_snapshots(store) or checkpoint.owner(store):
                raise UserError(f"{store.root} is for the snapshots of another run: give another place for these")
        engine.check_store(store)
        is_now = (name, job.splits.fingerprint, str(folder.path.absolute()))
        if (past.run, past.data, past.place) != is_now:
            past.run, past.data, past.place = is_now
            folder.write_past(past)
        log = RunLog(job, folder, store, view, past, snapshot, asked_at)
        checkpoint.claim(store, name)
        places.remember(asked, folder.path)  # before there is a config that could be resumed
        folder.write_config(asked)
        unless_begun.pop_all()
        if goes_on:
            view.resumed(snapshot.step if snapshot else 0, job.steps)
        layout = replace(layout, notes=(*notes, *filter(None, [warning]), *layout.notes))
        try:
            return Run(job, engine, folder, log, view, interrupt).go(layout)
        except BaseException:
            if log.newest is None:
                checkpoint.disclaim(store, name)
            raise


def _past_of(folder: RunFolder, store: Store, job: Job, view: View) -> tuple[Past, str, checkpoint.Manifest | None]:
    """Return the past of a run, its name, and the snapshot that it goes on from. Raises UserError."""
    training, lost = job.config.training, ""
    try:
        past = folder.read_past()
    except Unreachable:  # it need not be lost
        raise
    except UserError as error:  # which changes no weight
        past, lost = Past(), str(error)
    places.refuse_other_data(past.data, job.splits.fingerprint, training.data.source)
    name = folder.name(past, store) or uuid4().hex
    snapshot = newest_whole(store, job, view)
    if snapshot and snapshot.step > job.steps:
        raise UserError(f"run {folder.path} is at step {snapshot.step}, past the end of {training.epochs} epochs")
    if lost and snapshot:
        view.note(f"warning: {lost}; metrics and evaluations up to step {snapshot.step} are lost")
    return past, name, snapshot


def _in_one_piece(config: Config) -> Config:
    """Change a config to one block and one process, as the yardstick has one block and thus one stage."""
    if config.training.method != "backprop":
        return config
    execution = replace(
        config.execution, engine="local", stages=1, chapter=0, window=0, cpus=0.0, gpus=0.0, memory="", resources={},
        labels={}, device=config.execution.first_device,
    )  # fmt: skip
    return replace(config, execution=execution)


def _make_job(config: Config, model: Model) -> tuple[Config, Job, tuple[str, ...]]:
    """Return the config that a run keeps, its job, within its budget, and what a person should know of that.

    A choice that was made for a budget is not kept: a run that goes on, with another budget perhaps, chooses anew.
    """
    process = _bare_process(config) if config.execution.memory_budget else 0
    asked = make_job(config, model)
    job, notes = within_budget(asked, process)
    refuse_beyond_this_host(job)
    found = asked.splits.found if asked.config.training.data.train else ()
    return asked.config, job, (*found, *notes)


def planned(
    config: Config, model: Given | None = None, allow_code: Iterable[str] = ()
) -> tuple[Job, Estimate, tuple[str, ...]]:
    """Estimate what a run of this config would take; returns also what was chosen for its budget. Nothing is written or
    started.

    model, allow_code: as for `train`. Raises UserError as `train` would.
    """
    config, of_user = with_model(checked(config), model, allow_code, "the config")
    config = _in_one_piece(config)
    process = _bare_process(config)
    job, notes = within_budget(make_job(config, of_user), process)
    return job, estimate_layout(job, draft_layout(job), process), notes


def _bare_process(config: Config) -> int:
    """Return the bytes of a process with all that a stage of this config needs."""
    if config.execution.engine == "ray":
        load_ray()
    return bare_process(config)


def newest_whole(store: Store, job: Job, view: View) -> checkpoint.Manifest | None:
    """Return the newest snapshot of which every file is what this job writes; others are named and passed over.

    Raises Unreachable where that cannot be known; Misfit where there is none, but whole ones of another network, which
    a run that began anew would remove.
    """
    found, misfits, notes = None, list[Misfit](), list[str]()
    for folder in reversed(checkpoint.whole_snapshots(store)):
        try:
            found = verified(store, folder, job)
            break
        except Unreachable:
            raise
        except UserError as error:
            misfits += [error] if isinstance(error, Misfit) else []
            notes.append(f"warning: {error}; trying the snapshot before it")
    if found is None and misfits:
        raise misfits[0]
    for note in notes:
        view.note(note)
    return found


def verified(store: Store, folder: str, job: Job) -> checkpoint.Manifest:
    """Read every file of a snapshot once. Raises UserError naming the first that is wrong or missing."""
    manifest = checkpoint.read_manifest(store, folder)
    if manifest.input != job.input:
        raise Misfit(f"checkpoint {store.place(folder)} is of a network for {manifest.input}, not for {job.input}")
    files = snapshot_contents(job.network, manifest.step)
    if other := sorted(files.keys() ^ manifest.files.keys()):
        has = "lacks" if other[0] in files else "has"
        raise Misfit(f"checkpoint {store.place(folder)} {has} {other[0]}: it is of another network than the config")
    for name, contents in files.items():
        checkpoint.read_tensors(store, folder, manifest, name, contents)
    return manifest


def make_engine(execution: Execution) -> Engine:
    """Return the engine that was asked for. Ray is imported only where it is used; what a run left that was killed
    goes."""
    if execution.engine != "ray":
        sweep(folder_of_clusters(), PREFIX)
        return LocalEngine() if execution.engine == "local" else LayerwiseEngine()
    prepare_ray()
    from ffpipe.engines.ray.engine import RayEngine

    return RayEngine(object_store_bytes=execution.object_store_bytes)


@dataclass
class Run:
    """Works a job to its end, from one whole snapshot to the next if need be."""

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
            why = f"{error.filename or self.folder.path}: {error.strerror or error}"
            raise RunFailed(f"{why}; {self._rescue()}") from error
        if status == "interrupted":
            raise Interrupted(f"saved after step {summary['steps']}; go on with: ffpipe resume {self.folder.path}")
        goodness, softmax = summary["test_error_goodness"], summary["test_error_softmax"]
        result = Result(self.folder.path, goodness, softmax, summary["weights_sha256"], summary)
        self.view.finish(result.run_dir, result.test_errors, summary["train_seconds"])
        return result

    def _to_its_end(self, layout: Layout) -> tuple[str, dict[str, Any]]:
        """Return status and summary, which is written however the run ends."""
        self.view.start(self.job, layout, self.folder.path)
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
            elif self.interrupt.wished and self._start().step >= self.log.step:
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
        recovery = Recovery(execution.attempts, execution.back_off)
        try:
            patiently(lambda: self.log.begin(layout))
        except Unreachable as error:
            raise RunFailed(f"{error}; {self._rescue()}") from error
        while True:
            start = self._start()
            self.interrupt.goes_to(self.engine.interrupt)
            try:
                self.engine.run(self.job, layout, self.log.store, start, self.folder.path, self.log.take)
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
                    layout = self.engine.layout_again(self.job, self.log.store)
                    self.log.newest = patiently(lambda: newest_whole(self.log.store, self.job, self.view))
                    patiently(partial(self.log.begin, layout))
                except (RunFailed, UserError) as nowhere:
                    raise RunFailed(f"{error}; {nowhere}; {self._rescue()}") from nowhere
                step = self._start().step
                self.log.recovered(RecoveryNote(str(error), step, max(0, reached - step), len(layout.stages)))
                self.view.go_on(layout)

    def _start(self) -> Start:
        newest = self.log.newest
        return Start(newest.step, checkpoint.folder_of(newest.step)) if newest else Start()

    def _rescue(self) -> str:
        newest = self.log.newest
        if newest is None:
            return "there is no snapshot to go on from"
        place = self.log.store.place(checkpoint.folder_of(newest.step))
        return f"what there was after step {newest.step} is in {place}; go on with: ffpipe resume {self.folder.path}"

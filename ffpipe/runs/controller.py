"""One run from config to result: check, lay out, make the folder, start the engine, and let the run work."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from ffpipe.config.fields import LARGEST_FILE, checked, override, to_toml
from ffpipe.config.schema import Config, Execution
from ffpipe.engines.layerwise import spoolfolder
from ffpipe.engines.layerwise.engine import LayerwiseEngine
from ffpipe.engines.local import LocalEngine
from ffpipe.engines.ray.settings import PREFIX, folder_of_clusters, load_ray, prepare_ray
from ffpipe.learn.description import described, instead_of
from ffpipe.learn.network import NO_ANSWER, readouts_of
from ffpipe.pipeline.job import Engine, Job, Model, few_steps, make_job, refuse_beyond_this_host
from ffpipe.pipeline.left_alone import left_alone
from ffpipe.planning.budget import within_budget
from ffpipe.planning.cost import work_out
from ffpipe.planning.estimate import Estimate, bare_process, draft_layout, estimate_layout, process_as
from ffpipe.runs import places
from ffpipe.runs.folder import RunFolder, new_run, open_run
from ffpipe.runs.follow import Followed
from ffpipe.runs.interrupt import Interrupt
from ffpipe.runs.log import RunLog
from ffpipe.runs.model import Given, with_model
from ffpipe.runs.resumed import newest_whole, other_rates, resumed
from ffpipe.runs.run import Result, Run
from ffpipe.runs.view import View, Warnings
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import Unreachable, UserError, nearest, refuse_other
from ffpipe.system.leftovers import sweep
from ffpipe.telemetry.callbacks import Callback
from ffpipe.telemetry.report import History
from ffpipe.telemetry.tensorboard import TensorBoard

MakeEngine = Callable[[Execution], Engine]


def train(
    config: Config,
    view: View | None = None,
    interrupt: Interrupt | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    callbacks: Sequence[Callback] = (),
    engine: MakeEngine | None = None,
) -> Result:
    """Do what `ffpipe train` does with this config.

    view: is told how the run goes; without one warnings go to stderr, and nothing else is said. interrupt: asks it to
    save and end. model: the network, as a function that returns its blocks or the name of one; it takes the place of
    `training.model`. allow_code: names of code that the config may have imported. callbacks: follow the run. engine:
    makes the engine, in place of the one that the config names.

    Writes the run folder and returns what is in it. Raises UserError, and leaves no run folder, where the config asks
    for what cannot be; RunFailed where the run broke off; Interrupted where it was asked to.
    """
    config, of_user = with_model(checked(config), model, allow_code, "the config")
    # Before anything is laid out: config.toml is to say how the run was really made.
    config = _in_one_piece(config)
    view, interrupt = _followed(config, view, interrupt, callbacks)
    return carry_out(config, of_user, new_run(config), False, view, interrupt, engine or make_engine)


def resume(
    run: str | Path,
    changes: dict[str, Any] | None = None,
    view: View | None = None,
    interrupt: Interrupt | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    callbacks: Sequence[Callback] = (),
    engine: MakeEngine | None = None,
) -> Result:
    """Go on with a run, finished or broken off, from its newest whole snapshot, or from the start where it has none.

    changes: fields by dotted name (`execution.*`, `training.epochs`, and the places of the same data,
    `training.data.train` and `.test`). view, interrupt, callbacks, engine: as for `train`. model, allow_code: consent
    to import the code that the run names. Raises UserError where the folder is not a run, where it names code without
    consent or code that has changed, where it leads outside of itself without the user's word (places.py), where
    another process works on it, where another field of `training` would change or the run is past those epochs, where
    its data are others now, and where its place for snapshots has those of another run or another network; RunFailed
    and Interrupted as `train` does.
    """
    found = resumed(run, changes or {}, model, allow_code)
    view, interrupt = _followed(found.config, view, interrupt, callbacks)
    return carry_out(found.config, found.model, found.folder, True, view, interrupt, engine or make_engine)


def _followed(
    config: Config, view: View | None, interrupt: Interrupt | None, callbacks: Sequence[Callback]
) -> tuple[View, Interrupt]:
    """Return the view of a run, with callbacks if there are any, and what ends the run. Raises UserError."""
    view, interrupt = view or Warnings(), interrupt or Interrupt()
    refuse_other(view, View, "view", "an ffpipe.View, and others by name: model=function, callbacks=[...]")
    if not isinstance(callbacks, Iterable):
        raise UserError(f"callbacks is {described(callbacks)}: give a list")
    callbacks = [*callbacks]  # which may come once only
    for number, each in enumerate(callbacks):
        if not isinstance(each, Callback):
            instead = instead_of(each, "an object of a subclass of ffpipe.Callback")
            raise UserError(f"callbacks[{number}] is {described(each)}: {instead}")
        known = [name for name in dir(Callback) if name.startswith("on_")]
        for name in dir(each):
            if name.startswith("on_") and name not in known:
                view.note(f"warning: {type(each).__name__}.{name} is never called; {nearest(name, known)}")
    callbacks = [*callbacks, *([TensorBoard()] if config.execution.tensorboard else [])]
    return Followed(view, callbacks, interrupt) if callbacks else view, interrupt


def _job_of(config: Config, model: Model) -> Job:
    return make_job(config, model, work_out)


def carry_out(
    config: Config,
    model: Model,
    folder: RunFolder,
    goes_on: bool,
    view: View,
    interrupt: Interrupt,
    make: MakeEngine,
    job_of: Callable[[Config, Model], Job] = _job_of,
) -> Result:
    """Train from the beginning, or go on with the run in the folder. job_of: loads the data of a config. A new folder
    is made when the config is known to fit data and engine, and removed where the run cannot begin all the same."""
    if torch.get_default_dtype() != torch.float32:
        raise UserError(
            f"torch's default dtype is {torch.get_default_dtype()}, which stages in other processes do not have: leave "
            "it at float32, and give --training.precision"
        )
    asked_at = time.time()
    # The spool goes to the run folder, wherever that is now.
    config = override(config, {"execution.run_dir": str(folder.path.absolute())})
    store = folder.store(config)
    # Two stacks: `held` lasts until the run has ended, `unless_begun` takes back what only a run that begins may leave.
    # The interrupt ends before both, so that no signal cuts short what they take down.
    with ExitStack() as held, ExitStack() as unless_begun, interrupt.until_the_end():
        # First of all: what follows removes what an earlier run left, which must not be that of one at work.
        warning = held.enter_context(folder.lock()) if goes_on else ""
        # Read now, while it is as it was: config.toml is yet to be written with what a command changes.
        before = open_run(folder.path)[1] if goes_on else config
        for spool in {before.execution.spool, config.execution.spool}:
            spoolfolder.make_room(spool, folder.path if goes_on else None)
        asked, job, notes = _within_budget(config, job_of(config, model))
        if goes_on:
            past, name, snapshot = _past_of(folder, store, job, view)
            notes = (*notes, *other_rates(job, before.training.epochs, snapshot.step if snapshot else 0))
        else:
            notes = (*notes, *few_steps(job), *left_alone(job))
            code = job.network.code
            past, name, snapshot = History(code=code.recorded if code else ""), uuid4().hex, None
        # After the checks, which need no cluster: a request that is wrong is not to wait until one has started.
        if len(to_toml(asked).encode()) > LARGEST_FILE:
            raise UserError(
                f"the config has more than {LARGEST_FILE:,} bytes: name files of data by their folder, or by a pattern "
                "in quotes"
            )
        view.starting(job.config.execution)
        engine = make(job.config.execution)
        held.callback(engine.close)
        layout = engine.layout(job)
        if not goes_on:
            folder.make()
            unless_begun.callback(shutil.rmtree, folder.path, ignore_errors=True)
            warning = held.enter_context(folder.lock())
            # Listed first: a store that refuses that may answer all the same when it is asked for one file.
            if checkpoint.whole_snapshots(store):
                raise UserError(f"{store.root} is for the snapshots of another run: give another place for these")
            checkpoint.refuse_taken(store, name)
        engine.check_store(store)
        # The name goes to past.json before the store is claimed: a run that dies in between still knows its own claim.
        is_now = (name, job.splits.fingerprint, str(folder.path.absolute()))
        if (past.run, past.data, past.place) != is_now:
            past.run, past.data, past.place = is_now
            folder.write_past(past)
        log = RunLog(job, folder, store, view, past, snapshot, asked_at)
        if not goes_on:  # first: an interrupt may come as soon as the place is claimed
            unless_begun.callback(checkpoint.disclaim, store, name)
        checkpoint.claim(store, name)
        places.remember(asked, folder.path)  # before there is a config that could be resumed
        folder.write_config(asked)
        # From here on the folder can be resumed, so whatever fails later leaves it.
        unless_begun.pop_all()
        if goes_on:
            view.resumed(snapshot.step if snapshot else 0, job.steps)
        layout = replace(layout, notes=(*notes, *filter(None, [warning]), *layout.notes))
        try:
            return Run(job, engine, folder, log, view, interrupt).go(layout)
        except BaseException:
            # Without a snapshot nothing is lost, and the place is free for another run.
            if log.newest is None:
                checkpoint.disclaim(store, name)
            raise


def _past_of(folder: RunFolder, store: Store, job: Job, view: View) -> tuple[History, str, checkpoint.Manifest | None]:
    """Return the past of a run, its name, and the snapshot that it goes on from. Raises UserError."""
    training, lost = job.config.training, ""
    try:
        past = folder.read_past()
    except Unreachable:  # it need not be lost
        raise
    except UserError as error:  # which changes no weight
        past, lost = History(), str(error)
    places.refuse_other_data(past.data, job.splits.fingerprint, training.data.source)
    name = folder.name(past, store) or uuid4().hex
    snapshot = newest_whole(store, job, view)
    if snapshot and snapshot.step > job.steps:
        raise UserError(f"run {folder.path} is at step {snapshot.step}, past the end of {training.epochs} epochs")
    if snapshot is None and past.saved and not folder.holds(store) and checkpoint.owner(store) != past.run:
        raise UserError(
            f"{store.root} has no snapshot of run {folder.path}, which has saved step {past.saved}: give the place of "
            "its own with --execution.checkpoints, or move what is there to this one"
        )
    if snapshot and 0 < past.saved < snapshot.step:
        view.note(
            f"warning: {folder.past} knows the run up to step {past.saved} only: metrics and evaluations from there to "
            f"step {snapshot.step} are lost"
        )
    if lost and snapshot:
        view.note(f"warning: {lost}; metrics and evaluations up to step {snapshot.step} are lost")
    return past, name, snapshot


def _in_one_piece(config: Config) -> Config:
    """Change a config to one block and one process, as the yardstick has one block and thus one stage."""
    if config.training.method != "backprop":
        return config
    execution = replace(
        config.execution, engine="local", stages=1, replicas=1, chapter=0, window=0, cpus=0.0, gpus=0.0, memory="",
        resources={}, labels={}, device=config.execution.first_device,
    )  # fmt: skip
    return replace(config, execution=execution)


def _within_budget(config: Config, asked: Job) -> tuple[Config, Job, tuple[str, ...]]:
    """Return the config that a run keeps, its job, within its budget, and what a person should know of that.

    A choice that was made for a budget is not kept: a run that goes on, with another budget perhaps, chooses anew.
    """
    # Known by importing all that a stage does, which takes a while: only where it decides something.
    process = process_of_stage(config) if config.execution.memory_budget else 0
    job, notes = within_budget(asked, process)
    refuse_beyond_this_host(job)
    found = asked.splits.found if asked.config.training.data.train else ()
    silent = () if readouts_of(job.network) else (f"warning: {NO_ANSWER}",)
    return asked.config, job, (*found, *silent, *notes)


def planned(
    config: Config, model: Given | None = None, allow_code: Iterable[str] = ()
) -> tuple[Job, Estimate, tuple[str, ...]]:
    """Estimate what a run of this config would take; returns also what was chosen for its budget. Nothing is written or
    started. model, allow_code: as for `train`. Raises UserError as `train` would."""
    config, of_user = with_model(checked(config), model, allow_code, "the config")
    config = _in_one_piece(config)
    process = process_of_stage(config)
    job, notes = within_budget(_job_of(config, of_user), process)
    process = process_as(job.config.execution.engine, process, config.execution.engine)
    return job, estimate_layout(job, draft_layout(job), process), notes


def process_of_stage(config: Config) -> int:
    """Return the bytes of a process with all that a stage of this config needs."""
    if config.execution.engine == "ray":
        load_ray()
    return bare_process(config)


def make_engine(execution: Execution) -> Engine:
    """Return the engine that was asked for. Ray is imported only where it is used."""
    # A killed run may have left processes of Ray, which go whatever engine comes next (`Cluster` does as much).
    if execution.engine != "ray":
        sweep(folder_of_clusters(), PREFIX)
        return LocalEngine() if execution.engine == "local" else LayerwiseEngine()
    prepare_ray()
    from ffpipe.engines.ray.engine import RayEngine

    return RayEngine(object_store_bytes=execution.object_store_bytes)

"""The Ray engine, driver side: places one actor a stage, has them measured, starts them, listens to their reports.

It touches no activation: actors push to each other (actor.py).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from ffpipe.errors import Diverged, RunFailed, StageLost, UserError
from ffpipe.pipeline.actor import CONCURRENCY, Process, StageActor, start_ticks
from ffpipe.pipeline.cluster import Cluster
from ffpipe.pipeline.footprint import Room, least_store
from ffpipe.pipeline.job import Job, Layout, Measured, OnReport, Start, make_layout
from ffpipe.pipeline.worker import Parts, WorkerSetup, senders
from ffpipe.store import Store

POLL_SECONDS = 0.5
# To import torch and time a few steps, when all stages of a host do it at once on few cores.
SECONDS_A_STAGE_TO_BEGIN = 10.0


class RayEngine:
    """Every stage in an actor of its own. parts: what workers make their stage and feed with.

    object_store_bytes: of a cluster of our own; 0: as Ray chooses.
    """

    def __init__(self, parts: Parts | None = None, object_store_bytes: int = 0) -> None:
        self._parts = parts or Parts()
        self._actors: list[Any] = []
        self._processes: list[Process] = []
        self._threads = 1
        self._interrupted = False
        self.cluster = Cluster(object_store_bytes)

    def layout(self, job: Job) -> Layout:
        """Place the actors, min(layers, CPUs) of them where not given, and cut the network to what they measure.

        Raises UserError where the cluster or its object stores are too small for what was asked, or it stays busy.
        """
        execution = job.config.execution
        have = self.cluster.resources()
        stages = execution.stages or max(1, min(job.layers, int(have.get("CPU", 0))))
        demand = _demand(job, stages, have)
        for name in _short_of(stages, demand, have):
            raise UserError(
                f"{stages} stage(s) of {demand[name]:g} {name} each need {demand[name] * stages:g} {name}, the cluster "
                f"has {have.get(name, 0.0):g}: ask for fewer stages or less for each "
                f"({_fields(name)}), or join a larger cluster with RAY_ADDRESS"
            )
        self._threads = max(1, int(demand["CPU"]))
        self._place(stages, demand, execution.start_timeout)
        return self._make_layout(job)

    def layout_again(self, job: Job) -> Layout:
        """On as many stages as before if they find room, else on fewer."""
        wanted = max(1, len(self._actors))
        self.cluster.head.wait()
        self.release()
        layout = self._fit(job, wanted)
        if layout is None and not self.cluster.attached():
            self.cluster.attach_again()
            layout = self._fit(job, wanted)
        if layout is None:
            raise RunFailed("no stage finds room in what is left of the cluster")
        return layout

    def _fit(self, job: Job, wanted: int) -> Layout | None:
        """A layout on `wanted` stages or as many as find room; None where none does."""
        for stages in range(wanted, 0, -1):
            have = self.cluster.resources()
            demand = _demand(job, stages, have)
            if not self.cluster.attached():
                return None
            if _short_of(stages, demand, have):
                continue
            try:
                self._place(stages, demand, job.config.execution.start_timeout)
                return self._make_layout(job)
            except (UserError, StageLost):
                self.release()
        return None

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        setups = [
            WorkerSetup(spec, layout.plan, layout.window, job.config, store, start, senders(layout.stages, spec.index))
            for spec in layout.stages
        ]
        try:
            self._ask(
                [
                    actor.set_up.remote(setup, self._parts, self._actors, self._threads)
                    for actor, setup in zip(self._actors, setups, strict=True)
                ]
            )
            self._listen(job.config.execution.stage_timeout, layout, on_report)
        except StageLost:
            self.cluster.head.wait()  # a stage that was lost with the head node cannot be replaced
            raise

    def interrupt(self) -> None:
        self._interrupted = True  # the first stage is told when we listen next: Ray is not called in a signal handler

    def release(self) -> None:
        """Discard all stages, the dead and the living, those that answer and those that do not."""
        for actor in self._actors:
            ray.kill(actor)
        here = ray.get_runtime_context().get_node_id() if self._processes else ""
        for process in self._processes:
            # One that was stopped cannot obey Ray; on this host it can be ended all the same.
            if process.node == here and process.began and start_ticks(process.id) == process.began:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.id, signal.SIGKILL)
        self._actors, self._processes = [], []

    def close(self) -> None:
        self.release()
        self.cluster.close()

    def _place(self, stages: int, demand: dict[str, float], timeout: float) -> None:
        custom = {name: each for name, each in demand.items() if name not in ("CPU", "GPU")}
        options = {
            "num_cpus": demand["CPU"],
            "num_gpus": demand.get("GPU", 0.0),
            "resources": custom,
            # No restarts: a fresh actor would go on from the weights of step 0 and nobody would notice.
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        remote: Any = ray.remote(concurrency_groups=CONCURRENCY)(StageActor)  # type: ignore[call-overload]  # no hint
        self._actors = [remote.options(**options).remote() for _ in range(stages)]
        pings = [actor.ping.remote() for actor in self._actors]
        try:
            self._wait_for_places(pings, stages, demand, timeout)
            self._processes = ray.get([actor.process.remote() for actor in self._actors], timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            asked = ", ".join(f"{each:g} {name}" for name, each in demand.items() if each)
            free = self.cluster.available()
            there = ", ".join(f"{free.get(name, 0.0):g} {name}" for name, each in demand.items() if each)
            self.release()
            raise UserError(
                f"{stages} stage(s) of {asked} each could not be placed within {timeout:g} s; free are {there}: "
                "wait for others to finish, ask for less, or raise --execution.start-timeout"
            ) from None
        except ray.exceptions.RayError as error:
            raise StageLost(_reason("a stage could not start", error)) from error

    def _make_layout(self, job: Job) -> Layout:
        """For the stages that were placed."""
        nodes = tuple(process.node for process in self._processes)
        room = Room(nodes, self.cluster.stores(), self.cluster.larger_store)
        if not room.capacities.keys() >= set(nodes):
            raise StageLost("the host of a stage is gone")
        layout = make_layout(job, len(nodes), self.measure(job), room)
        return replace(layout, notes=self.cluster.notes(least_store(layout.stages, nodes, layout.window)))

    def _wait_for_places(self, pings: list[Any], stages: int, demand: dict[str, float], timeout: float) -> None:
        """Raises GetTimeoutError, StageLost, and what a dead stage answers.

        Ray takes a node for alive until it has missed a few calls, places stages on it, and then waits in silence.
        """
        deadline = time.monotonic() + timeout
        while len(ray.wait(pings, num_returns=stages, timeout=POLL_SECONDS)[0]) < stages:
            self.cluster.head.wait()
            if not self.cluster.attached() or _short_of(stages, demand, self.cluster.resources()):
                raise StageLost("a node of the cluster has died")
            if time.monotonic() > deadline:
                raise ray.exceptions.GetTimeoutError
        ray.get(pings)

    def measure(self, job: Job) -> Measured:
        """Costs of every layer on every stage's device, and of a message between neighbours."""
        training = job.config.training
        arguments = (training, job.width, job.splits.classes, job.config.execution.device, self._threads)
        costs = self._ask([actor.measure.remote(*arguments) for actor in self._actors])
        return Measured(costs, self.message_seconds(job.minibatch_bytes))

    def message_seconds(self, size: int) -> float:
        """What a message of `size` bytes takes between neighbours; one of less is sent where the stores are small."""
        sent = max(1, min(size, *(store // 8 for store in self.cluster.stores().values())))
        pairs = list(zip(self._actors, self._actors[1:], strict=False))
        trips = [self._ask([a.round_trip.remote(b, sent)])[0] for a, b in pairs[:MEASURED_EDGES]]
        return statistics.median(trips) * size / sent if trips else 0.0

    def _ask(self, refs: list[Any]) -> list[Any]:
        """Results of calls before the run. Raises StageLost where a stage dies or does not answer, else RunFailed."""
        try:
            results = self._get(refs, time.monotonic() + 30.0 + SECONDS_A_STAGE_TO_BEGIN * len(self._actors))
        except ray.exceptions.RayError as error:
            raise _failure("a stage could not begin", error) from error
        return results

    def _get(self, refs: list[Any], deadline: float) -> list[Any]:
        """What ray.get gives and raises, with an eye on the head node while it waits."""
        while True:
            try:
                results: list[Any] = ray.get(refs, timeout=min(POLL_SECONDS, max(0.1, deadline - time.monotonic())))
            except ray.exceptions.GetTimeoutError:
                if time.monotonic() >= deadline:
                    raise
                self.cluster.head.look()
            else:
                return results

    def _listen(self, timeout: float, layout: Layout, on_report: OnReport) -> None:
        """Fetch reports until every stage has worked the whole plan. Raises with the first failure.

        A failure of the program itself goes before the loss of a stage, which may be its consequence.
        """
        running = {actor.run.remote(): index for index, actor in enumerate(self._actors)}
        told = False
        while running:
            if self._interrupted and not told:
                told = True
                self._actors[0].interrupt.remote()
            self.cluster.head.look()
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for ref in done:
                self._fetch([ref], [running.pop(ref)], layout, timeout, on_report)
            started = time.monotonic()
            # Those that are through as well: what one had sent and nobody had fetched yet is lost with it.
            asked = [actor.report.remote() for actor in self._actors if running]
            self._fetch(asked, list(range(len(asked))), layout, timeout, on_report)
            if not done:
                time.sleep(max(0.0, started + POLL_SECONDS / 2 - time.monotonic()))

    def _fetch(self, refs: list[Any], indices: list[int], layout: Layout, timeout: float, on_report: OnReport) -> None:
        """Reports of these stages. Every one has the same time to answer, asked at once."""
        deadline = time.monotonic() + timeout
        for ref, index in zip(refs, indices, strict=True):
            layers = layout.stages[index].layers
            what = f"stage {index} (layers {layers.start} to {layers.stop - 1})"
            try:
                reports = self._get([ref], deadline)[0]
            except ray.exceptions.GetTimeoutError:
                raise StageLost(f"{what} did not answer for {timeout:g} s") from None
            except ray.exceptions.RayError as error:
                raise _failure(f"{what} failed", error) from error
            for report in reports:
                on_report(report)


# Neighbours whose link is timed; on one host they are all alike, and each costs a few milliseconds.
MEASURED_EDGES = 4


def _demand(job: Job, stages: int, have: dict[str, float]) -> dict[str, float]:
    """What each stage asks for. Without a word, a CPU, or an equal share where there are fewer CPUs than stages."""
    execution = job.config.execution
    cpus = execution.cpus
    if not cpus:
        total = have.get("CPU", 0.0)
        cpus = 1.0 if stages <= total else math.floor(total / stages * 1e4) / 1e4
    gpus = execution.gpus or (1.0 if execution.device == "cuda" else 0.0)
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **execution.resources}


def _short_of(stages: int, demand: dict[str, float], have: dict[str, float]) -> list[str]:
    """Resources of which a cluster that has these is too small for so many stages."""
    return [name for name, each in demand.items() if each * stages > have.get(name, 0.0) + 1e-6]


def _fields(resource: str) -> str:
    return {"CPU": "--execution.cpus", "GPU": "--execution.gpus"}.get(resource, "--execution.resources")


def _failure(what: str, error: BaseException) -> RunFailed:
    """StageLost where a process, a host or a message is gone; RunFailed with its own words where the program raised."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Diverged):
        return Diverged(str(cause))
    own = isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, ray.exceptions.RayError)
    return RunFailed(_reason(what, error)) if own else StageLost(_reason(what, error))


def _reason(what: str, error: BaseException) -> str:
    """One line; the cause raised inside an actor where there is one."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return f"{what}: {type(cause).__name__}: {lines[0] if lines else 'no message'}"

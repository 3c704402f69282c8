"""The Ray engine, driver side: places one actor a stage, starts them, listens to their reports.

It touches no activation: actors push to each other (actor.py).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import ray

from ffpipe.errors import RunFailed, UserError
from ffpipe.pipeline.actor import CONCURRENCY, ActorSetup, StageActor, senders
from ffpipe.pipeline.cluster import Cluster
from ffpipe.pipeline.job import Job, Layout, OnReport

POLL_SECONDS = 0.5


class RayEngine:
    """Every stage in an actor of its own."""

    def __init__(self) -> None:
        self.cluster = Cluster()

    def stages(self, job: Job) -> int:
        """min(layers, CPUs) where not given. Raises UserError where the cluster is too small for what is."""
        execution = job.config.execution
        have = self.cluster.resources()
        stages = execution.stages or max(1, min(job.layers, int(have.get("CPU", 0))))
        for name, each in _demand(job, stages, have).items():
            if each * stages > have.get(name, 0.0) + 1e-6:
                raise UserError(
                    f"{stages} stage(s) of {each:g} {name} each need {each * stages:g} {name}, the cluster has "
                    f"{have.get(name, 0.0):g}: ask for fewer stages or less for each "
                    f"({_fields(name)}), or join a larger cluster with RAY_ADDRESS"
                )
        return stages

    def run(self, job: Job, layout: Layout, checkpoints: Path, on_report: OnReport) -> None:
        demand = _demand(job, len(layout.stages), self.cluster.resources())
        cpus, gpus = demand.pop("CPU", 0.0), demand.pop("GPU", 0.0)
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "resources": demand}
        # No restarts: a fresh actor would go on from the weights of step 0 and nobody would notice.
        options |= {"max_restarts": 0, "max_task_retries": 0}
        remote: Any = ray.remote(concurrency_groups=CONCURRENCY)(StageActor)  # type: ignore[call-overload]  # no hint
        actors = []
        try:
            for spec in layout.stages:
                setup = ActorSetup(
                    spec=spec,
                    plan=layout.plan,
                    window=layout.window,
                    config=job.config,
                    checkpoints=checkpoints,
                    threads=max(1, int(cpus)),
                    senders=senders(layout.stages, spec.index),
                )
                actors.append(remote.options(**options).remote(setup))
            self._place(actors, job, len(actors), {"CPU": cpus, "GPU": gpus, **demand})
            self._listen(actors, layout, on_report)
        finally:
            for actor in actors:
                ray.kill(actor)

    def close(self) -> None:
        self.cluster.close()

    def _place(self, actors: list[Any], job: Job, stages: int, demand: dict[str, float]) -> None:
        timeout = job.config.execution.start_timeout
        try:
            ray.get([actor.connect.remote(actors) for actor in actors], timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            asked = ", ".join(f"{each:g} {name}" for name, each in demand.items() if each)
            free = self.cluster.available()
            there = ", ".join(f"{free.get(name, 0.0):g} {name}" for name, each in demand.items() if each)
            raise UserError(
                f"{stages} stage(s) of {asked} each could not be placed within {timeout:g} s; free are {there}: "
                "wait for others to finish, ask for less, or raise --execution.start-timeout"
            ) from None
        except ray.exceptions.RayError as error:
            raise RunFailed(_reason("a stage could not start", error)) from error

    def _listen(self, actors: list[Any], layout: Layout, on_report: OnReport) -> None:
        """Fetch reports until every stage has worked the whole plan. Raises RunFailed with the first failure."""
        running = {actor.run.remote(): index for index, actor in enumerate(actors)}
        while running:
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for ref in done:
                index = running.pop(ref)
                self._fetch(ref, layout, index, on_report)
            started = time.monotonic()
            for index in sorted(running.values()):
                self._fetch(actors[index].report.remote(), layout, index, on_report)
            if not done:
                time.sleep(max(0.0, started + POLL_SECONDS / 2 - time.monotonic()))

    @staticmethod
    def _fetch(ref: Any, layout: Layout, index: int, on_report: OnReport) -> None:
        layers = layout.stages[index].layers
        try:
            reports = ray.get(ref, timeout=60.0)
        except ray.exceptions.RayError as error:
            raise RunFailed(
                _reason(f"stage {index} (layers {layers.start} to {layers.stop - 1}) failed", error)
            ) from error
        for report in reports:
            on_report(report)


def _demand(job: Job, stages: int, have: dict[str, float]) -> dict[str, float]:
    """What each stage asks for. Without a word, a CPU, or an equal share where there are fewer CPUs than stages."""
    execution = job.config.execution
    cpus = execution.cpus
    if not cpus:
        total = have.get("CPU", 0.0)
        cpus = 1.0 if stages <= total else math.floor(total / stages * 1e4) / 1e4
    gpus = execution.gpus or (1.0 if execution.device == "cuda" else 0.0)
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **execution.resources}


def _fields(resource: str) -> str:
    return {"CPU": "--execution.cpus", "GPU": "--execution.gpus"}.get(resource, "--execution.resources")


def _reason(what: str, error: BaseException) -> str:
    """One line; the cause raised inside an actor where there is one."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return f"{what}: {type(cause).__name__}: {lines[0] if lines else 'no message'}"

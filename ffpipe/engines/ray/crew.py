"""The actors of a run: placed on the hosts of a cluster, asked and waited for, discarded again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ffpipe.config.schema import Execution
from ffpipe.engines.ray.actor import CONCURRENCY, Process, StageActor
from ffpipe.engines.ray.cluster import Cluster
from ffpipe.engines.ray.placement import MEMORY, STRATEGIES, Place, neighbours_together, say_amounts, shortage
from ffpipe.system.errors import ClusterLost, Diverged, RunFailed, StageLost, UserError, reason
from ffpipe.system.processes import start_ticks

POLL_SECONDS = 0.5
# To import torch and time a few steps, when all stages of a host do it at once on few cores.
SECONDS_TO_BEGIN, SECONDS_A_STAGE_TO_BEGIN = 30.0, 10.0


class Crew:
    """One actor a stage. places: what each asked for. processes: where each is."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._group: Any = None
        self.actors: list[Any] = []
        self.processes: list[Process] = []
        self.places: tuple[Place, ...] = ()

    def place(self, places: tuple[Place, ...], execution: Execution) -> None:
        """An actor for each place. Raises UserError where they find no room in time, StageLost where one fails."""
        self.places = places
        self._group = placement_group(
            [dict(place.asks) for place in places],
            strategy=STRATEGIES[execution.placement],
            bundle_label_selector=[dict(place.labels) for place in places],
        )
        self.actors = [self._actor(place, index) for index, place in enumerate(places)]
        timeout = execution.start_timeout
        pings = [actor.ping.remote() for actor in self.actors]
        try:
            self._wait_for_places(pings, execution)
            self.processes = ray.get([actor.process.remote() for actor in self.actors], timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            free = ray.available_resources()
            asked = " | ".join(dict.fromkeys(map(str, places)))
            there = say_amounts({name: free.get(name, 0.0) for place in places for name in place.asks})
            self.release()
            raise UserError(
                f"{len(places)} stage(s) of {asked} could not be placed within {timeout:g} s; free are {there} "
                f"(placement {execution.placement!r}): wait for others to finish, ask for less, or raise "
                "--execution.start-timeout"
            ) from None
        except ray.exceptions.RayError as error:
            raise failure("a stage could not start", error) from error
        order = neighbours_together(places, [process.node for process in self.processes])
        self.actors = [self.actors[index] for index in order]
        self.processes = [self.processes[index] for index in order]

    def _actor(self, place: Place, index: int) -> Any:
        """An actor in one place of the group."""
        asks = dict(place.asks)
        options = {
            "num_cpus": asks.pop("CPU", 0.0),
            "num_gpus": asks.pop("GPU", 0.0),
            "memory": asks.pop(MEMORY, None),
            "resources": asks,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, index),
            # No restarts: a fresh actor would go on from the weights of step 0 and nobody would notice.
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        remote: Any = ray.remote(concurrency_groups=CONCURRENCY)(StageActor)  # type: ignore[call-overload]  # no hint
        return remote.options(**options).remote()

    def release(self) -> None:
        """Discard all stages, the dead and the living, those that answer and those that do not."""
        for actor in self.actors:
            ray.kill(actor)
        here = ray.get_runtime_context().get_node_id() if self.processes else ""
        for process in self.processes:
            # One that was stopped cannot obey Ray; on this host it can be ended all the same.
            if process.node == here and process.began and start_ticks(process.id) == process.began:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.id, signal.SIGKILL)
        self.actors, self.processes = [], []
        # What it had reserved. Ray waits for the head node here, and it goes with the program in any case.
        with contextlib.suppress(ClusterLost):
            if self._group is not None and self._cluster.head.answers():
                remove_placement_group(self._group)
        self._group = None

    def _wait_for_places(self, pings: list[Any], execution: Execution) -> None:
        """Raises GetTimeoutError, StageLost, and what a dead stage answers.

        Ray takes a node for alive until it has missed a few calls, places stages on it, and then waits in silence.
        """
        deadline = time.monotonic() + execution.start_timeout
        while len(ray.wait(pings, num_returns=len(pings), timeout=POLL_SECONDS)[0]) < len(pings):
            self._cluster.head.wait()
            if not self._cluster.attached() or shortage(self.places, self._cluster.hosts(), execution.placement):
                raise StageLost("a node of the cluster has died")
            if time.monotonic() > deadline:
                raise ray.exceptions.GetTimeoutError
        ray.get(pings)

    def ask(self, refs: list[Any], seconds: float = 0.0) -> list[Any]:
        """Results of calls before the run. seconds: that they may take as long as all stages answer meanwhile; a stage
        has as long as it takes to begin in any case.

        Raises StageLost where a stage dies or does not answer, else RunFailed.
        """
        patience = SECONDS_TO_BEGIN + SECONDS_A_STAGE_TO_BEGIN * len(self.actors)
        end = time.monotonic() + max(seconds, patience)
        try:
            while True:
                with contextlib.suppress(ray.exceptions.GetTimeoutError):
                    return self.get(refs, min(end, time.monotonic() + patience))
                self.get([actor.process.remote() for actor in self.actors], min(end, time.monotonic() + patience))
        except ray.exceptions.GetTimeoutError:
            raise StageLost(f"a stage could not begin: it did not answer for {max(seconds, patience):g} s") from None
        except ray.exceptions.RayError as error:
            raise failure("a stage could not begin", error) from error

    def get(self, refs: list[Any], deadline: float) -> list[Any]:
        """What ray.get gives and raises, with an eye on the head node while it waits."""
        while True:
            try:
                results: list[Any] = ray.get(refs, timeout=min(POLL_SECONDS, max(0.1, deadline - time.monotonic())))
                return results
            except ray.exceptions.GetTimeoutError:
                if time.monotonic() >= deadline:
                    raise
                self._cluster.head.look()


def failure(what: str, error: BaseException) -> RunFailed:
    """StageLost where a process, a host or a message is gone; RunFailed with its own words where the program raised."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, Diverged):
        return Diverged(str(cause))
    own = isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, ray.exceptions.RayError)
    return (RunFailed if own else StageLost)(f"{what}: {type(cause).__name__}: {reason(cause)}")

"""The actors of a run: placed on the hosts of a cluster, asked and waited for, discarded again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ffpipe.config.schema import Execution
from ffpipe.engines.ray.actor import CONCURRENCY, Process, StageActor
from ffpipe.engines.ray.calls import within
from ffpipe.engines.ray.cluster import Cluster
from ffpipe.engines.ray.headwatch import PATIENCE
from ffpipe.engines.ray.placement import MEMORY, STRATEGIES, Bundle, format_amounts, neighbours_together, shortage
from ffpipe.system.errors import ClusterLost, Diverged, OutOfMemory, RunFailed, StageLost, UserError, reason
from ffpipe.system.processes import start_ticks

POLL_SECONDS = 0.5
# To import torch and time a few steps, when all stages of a host do it at once on few cores.
SECONDS_TO_BEGIN, SECONDS_A_STAGE_TO_BEGIN = 60.0, 10.0


class ActorGroup:
    """One actor a stage. places: what each asked for. processes: where each is."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._group: Any = None
        self.actors: list[Any] = []
        self.processes: list[Process] = []
        self.places: tuple[Bundle, ...] = ()

    def place(self, places: tuple[Bundle, ...], execution: Execution) -> None:
        """Start an actor for each place. Raises UserError where they find no room in time, StageLost if one fails."""
        self.places = places
        timeout = execution.start_timeout
        try:
            within(PATIENCE, "for a placement group", lambda: self._make(places, execution))
            self._wait_for_places(self.call(lambda actor: actor.ping.remote()), execution)
            found = self.call(lambda actor: actor.process.remote())
            self.processes = self.get(found, time.monotonic() + timeout)
        except ray.exceptions.GetTimeoutError:
            free = within(PATIENCE, "for what is free", ray.available_resources)
            asked = " | ".join(dict.fromkeys(map(str, places)))
            there = format_amounts({name: free.get(name, 0.0) for place in places for name in place.asks})
            self.release()
            raise UserError(
                f"{len(places)} actor(s) of {asked} could not be placed within {timeout:g} s; free are {there} "
                f"(placement {execution.placement!r}): wait for others to finish, ask for less, or raise "
                "--execution.start-timeout"
            ) from None
        except ray.exceptions.RayError as error:
            raise failure("a stage could not start", error) from error
        order = neighbours_together(places, [process.node for process in self.processes])
        self.actors = [self.actors[index] for index in order]
        self.processes = [self.processes[index] for index in order]

    def _make(self, places: tuple[Bundle, ...], execution: Execution) -> None:
        """Ask for the group and for an actor in each of its places."""
        self._group = placement_group(
            [dict(place.asks) for place in places],
            strategy=STRATEGIES[execution.placement],
            bundle_label_selector=[dict(place.labels) for place in places],
        )
        # One by one: `release` has to find those that were started before one failed.
        for index, place in enumerate(places):
            self.actors.append(self._actor(place, index))

    def call(self, method: Callable[[Any], Any]) -> list[Any]:
        """Call a method of every actor; returns references of the results."""
        return within(PATIENCE, "for a call", lambda: [method(actor) for actor in self.actors])

    def _actor(self, place: Bundle, index: int) -> Any:
        """Start an actor in one place of the group."""
        asks = dict(place.asks)
        options = {
            # Always said: an actor that says nothing takes 1 to be placed and 0 to run.
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
        actors, group = self.actors, self._group
        # Ray waits for the head node in both; what is not discarded goes with the program in any case.
        with contextlib.suppress(ClusterLost):
            within(self._cluster.patience(), "to discard stages", lambda: _discard(actors, group))
        here = ray.get_runtime_context().get_node_id() if self.processes else ""
        for process in self.processes:
            # One that was stopped cannot obey Ray; on this host it can be ended all the same.
            if process.node == here and process.began and start_ticks(process.id) == process.began:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.id, signal.SIGKILL)
        self.actors, self.processes, self._group = [], [], None

    def _wait_for_places(self, pings: list[Any], execution: Execution) -> None:
        """Wait until all actors run. Raises GetTimeoutError, StageLost, and what a dead stage answers.

        Ray takes a node for alive until it has missed a few calls, places stages on it, and then waits in silence.
        """
        deadline = time.monotonic() + execution.start_timeout
        while len(self.wait(pings, len(pings))) < len(pings):
            self._cluster.head.wait()
            if not self._cluster.attached() or shortage(self.places, self._cluster.hosts(), execution.placement):
                raise StageLost("a node of the cluster has died")
            if time.monotonic() > deadline:
                raise ray.exceptions.GetTimeoutError
        self.get(pings, time.monotonic() + PATIENCE)

    def ask(self, call: Callable[[], list[Any]], seconds: float = 0.0) -> list[Any]:
        """Return the results of calls before the run. call: makes them, and returns Ray's references. seconds: that
        they may take as long as all stages answer meanwhile; a stage has as long as it takes to begin in any case.

        Raises StageLost where a stage dies or does not answer, else RunFailed.
        """
        patience = SECONDS_TO_BEGIN + SECONDS_A_STAGE_TO_BEGIN * len(self.actors)
        end = time.monotonic() + max(seconds, patience)
        try:
            refs = within(max(seconds, patience), "for a call", call)
            while True:
                with contextlib.suppress(ray.exceptions.GetTimeoutError):
                    return self.get(refs, min(end, time.monotonic() + patience))
                # A question of another concurrency group, which is answered while a stage reads a large snapshot.
                alive = self.call(lambda actor: actor.process.remote())
                self.get(alive, min(end, time.monotonic() + patience))
        except ray.exceptions.GetTimeoutError:
            raise StageLost(
                f"a stage could not begin: it did not answer for {max(seconds, patience):g} s; try again when its "
                "host has less to do, or give --engine local"
            ) from None
        except ray.exceptions.RayError as error:
            raise failure("a stage could not begin", error) from error

    def ask_one(self, method: Any, *arguments: Any, seconds: float = 0.0) -> Any:
        """Return the result of one call of an actor's method, as `ask` does."""
        return self.ask(lambda: [method.remote(*arguments)], seconds)[0]

    def get(self, refs: list[Any], deadline: float) -> list[Any]:
        """Get results as ray.get does, and watch the head node meanwhile."""
        while True:
            try:
                # A moment in any case: what is there is fetched though the deadline has passed meanwhile.
                seconds = min(POLL_SECONDS, max(0.1, deadline - time.monotonic()))
                results: list[Any] = within(PATIENCE, "for a result", partial(ray.get, refs, timeout=seconds))
                return results
            except ray.exceptions.GetTimeoutError:
                if time.monotonic() >= deadline:
                    raise
                self._cluster.head.look()

    def wait(self, refs: list[Any], most: int = 1) -> list[Any]:
        """Return those of these calls that are done, after a moment or as soon as it is `most` of them."""
        poll = partial(ray.wait, refs, num_returns=most, timeout=POLL_SECONDS)
        done: list[Any] = within(PATIENCE, "what is done", poll)[0]
        return done


def _discard(actors: list[Any], group: Any) -> None:
    """Kill the actors, and give back what they had reserved."""
    for actor in actors:
        ray.kill(actor)
    if group is not None:
        remove_placement_group(group)


def failure(what: str, error: BaseException) -> RunFailed:
    """Return a StageLost where a process, a host or a message is gone; a RunFailed with its own words where the program
    raised."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, Diverged):
        return Diverged(str(cause))
    if isinstance(error, ray.exceptions.OutOfMemoryError):  # of Ray's own watch on the host's memory
        return OutOfMemory(what)
    # A stage that was calling another one, which is lost, fails with Ray's error as its own.
    own = isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, ray.exceptions.RayError)
    said = reason(cause) if isinstance(cause, RunFailed) else f"{type(cause).__name__}: {reason(cause)}"
    return (RunFailed if own else StageLost)(f"{what}: {said}")

"""The Ray engine, driver side: places one actor a stage, has them measured, starts them, listens to their reports.

It touches no activation: actors push to each other (actor.py).
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, repeat, takewhile
from pathlib import Path
from typing import Any

import ray

from ffpipe.config.schema import of_stage
from ffpipe.engines.ray.actor_group import POLL_SECONDS, ActorGroup, failure
from ffpipe.engines.ray.calls import within
from ffpipe.engines.ray.carried import sendable
from ffpipe.engines.ray.cluster import Cluster
from ffpipe.engines.ray.headwatch import PATIENCE
from ffpipe.engines.ray.placement import crowding, fewer, most_places, places_of, shortage, threads_of
from ffpipe.engines.ray.reach import check_reach
from ffpipe.engines.ray.supply import supply
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.pipeline.replicas import replicas_of, smaller_and_smaller
from ffpipe.pipeline.shared_sums import AVAILABLE
from ffpipe.pipeline.window import TIMED_BYTES
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup, make_own_stage
from ffpipe.planning import headroom
from ffpipe.planning.calibrate import pooled
from ffpipe.planning.layout import MEASURED_EDGES, Measured, make_layout
from ffpipe.planning.memory import StoreCapacity, least_store
from ffpipe.storage.store import Store
from ffpipe.system.errors import ClusterLost, OutOfMemory, RunFailed, StageLost, UserError
from ffpipe.telemetry.report import Answer, StageReport

# A host may have to download and convert data, or read a large snapshot through a slow network.
SECONDS_TO_SET_UP = 6 * 3600.0
# A store that refuses may be silent for half a minute before it does, each time that it is tried.
SECONDS_TO_REACH = 300.0
# A stage may be lost to chance while it is placed, which says nothing of the room that there is.
TRIES_TO_PLACE = 2


class RayEngine:
    """Every stage in an actor of its own. parts: what workers make their stage and feed with. object_store_bytes: of a
    cluster of our own; 0: as Ray chooses."""

    def __init__(self, parts: Parts | None = None, object_store_bytes: int = 0) -> None:
        self._parts = parts or Parts(make_own_stage)
        # Files that were sent to the hosts of the first stage, by Ray's node id.
        self._data_files: dict[str, tuple[str, ...]] = {}
        # Replicas of each stage that the run began with, and of each that was placed last.
        self._wanted: tuple[int, ...] = (1,)
        self._counts: tuple[int, ...] = self._wanted
        self._interrupted = False
        # Calls of `run` whose results nobody has fetched, and the worker of each.
        self._running: dict[Any, int] = {}
        self._kills = headroom.Kills()
        self.cluster = Cluster(object_store_bytes)
        self.group = ActorGroup(self.cluster)

    def layout(self, job: Job) -> Layout:
        """Place the actors, as many as layers and hosts allow where not given, and cut the network. Raises UserError
        where the cluster or its object stores are too small for what was asked, or it stays busy."""
        execution = job.config.execution
        hosts = self.cluster.hosts()
        stages = execution.stages or execution.listed
        places = places_of(execution, stages, hosts) if stages else most_places(execution, job.layers, hosts)
        self._wanted = self._counts = replicas_of(execution, stages or len(places) // of_stage(execution.replicas, 0))
        if why := crowding(execution, self._counts, hosts) or shortage(
            places, hosts, execution.placement, self._counts
        ):
            raise UserError(why)
        # Nothing is known here of the memory of hosts that were joined.
        warnings = headroom.warnings(job) if self.cluster.own else ()
        with self._kills.naming(partial(self._advice, job)):
            self.group.place(places, execution)
            layout = self._make_layout(job)
        return replace(layout, notes=(*layout.notes, *warnings))

    def layout_again(self, job: Job, store: Store) -> Layout:
        """Place as many stages and replicas as the run began with if they find room, else fewer."""
        self.cluster.head.wait()
        self.group.release()
        found = self._fit(job, store)
        if isinstance(found, RunFailed) and not self._interrupted and not self.cluster.attached():
            self.cluster.attach_again()
            found = self._fit(job, store)
        if isinstance(found, RunFailed):
            raise RunFailed("the run was to end") if self._interrupted else found
        return found

    def _fit(self, job: Job, store: Store) -> Layout | RunFailed:
        """Return a layout on all stages and replicas that are wanted, or on as many as find room; where none does, why
        not: a StageLost where one was lost meanwhile. A run that is to end gets none."""
        lost: StageLost | None = None
        short: tuple[int, ...] = ()
        why = ""
        tries = chain.from_iterable(repeat(counts, TRIES_TO_PLACE) for counts in smaller_and_smaller(self._wanted))
        # Each number may be waited for in vain, and a run that is to end needs none.
        for counts in takewhile(lambda _: not self._interrupted, tries):
            if counts == short:
                continue
            # Fewer stages would not help: another node has to be joined first.
            if not self.cluster.attached():
                return RunFailed("the node of this program has died")
            try:
                return self._place_again(job, store, counts)
            except StageLost as error:
                lost = error
            except (UserError, OutOfMemory) as error:
                why, short = why or str(error), counts  # what is short for all that was wanted
        return lost or RunFailed(f"no stage finds room in what is left of the cluster ({why})")

    def _place_again(self, job: Job, store: Store, counts: tuple[int, ...]) -> Layout:
        """Place stages with so many replicas. Raises UserError where they find no room, StageLost, OutOfMemory."""
        execution, hosts = job.config.execution, self.cluster.hosts()
        # All that the config lists, so that those whose hosts are gone can be left out.
        listed = max(execution.listed, len(counts))
        places = places_of(execution, listed, hosts, [1] * listed if max(counts) == 1 else counts)
        places = fewer(places, sum(counts), hosts)
        self._counts = counts
        if short := crowding(execution, counts, hosts) or shortage(places, hosts, execution.placement, counts):
            raise UserError(short)
        try:
            with self._kills.naming(partial(self._advice, job)):
                self.group.place(places, execution)
                layout = self._make_layout(job)
            self.check_store(store)
        except (UserError, StageLost, OutOfMemory):
            self.group.release()
            raise
        return layout

    def check_store(self, store: Store) -> None:
        """See to it that the hosts of all stages reach the snapshots. Raises UserError naming one that does not."""
        here = ray.get_runtime_context().get_node_id()
        placed = zip(self.group.processes, self.group.actors, strict=True)
        elsewhere = {process.node: actor for process, actor in placed if process.node != here}
        if not elsewhere:
            return
        check_reach(
            store,
            (
                (
                    self.cluster.address(node),
                    partial(self.group.ask_one, actor.problem_here, store, seconds=SECONDS_TO_REACH),
                )
                for node, actor in elsewhere.items()
            ),
        )

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        data = job.splits.fingerprint
        setups = [
            WorkerSetup(
                spec,
                layout.plan,
                layout.window,
                job.config,
                store,
                start,
                data_files=self._data_files.get(process.node, ()),
                data=data,
                leaves_early=layout.leaves_early,
            )
            for spec, process in zip(layout.workers, self.group.processes, strict=True)
        ]
        with self._kills.naming(partial(self._advice, job)):
            try:
                self.group.ask(
                    lambda: [
                        actor.set_up.remote(setup, self._parts, self.group.actors, threads_of(place), channel)
                        for actor, setup, place, channel in zip(
                            self.group.actors, setups, self.group.places, self._channels(), strict=True
                        )
                    ],
                    SECONDS_TO_SET_UP,
                )
                self._listen(job.config.execution.stage_timeout, layout, on_report)
            except StageLost:
                self.cluster.head.wait()  # a stage that was lost with the head node cannot be replaced
                raise
            except RunFailed:
                self._fetch_last(job.config.execution.stage_timeout, on_report)
                raise

    def _channels(self) -> list[str]:
        """Name, for each process, the channel by which the replicas of its stage exchange sums; "" where they are on
        several hosts, or there is one."""
        found, first = [], 0
        for count in self._counts:
            nodes = {process.node for process in self.group.processes[first : first + count]}
            shared = AVAILABLE and count > 1 and len(nodes) == 1
            found += [secrets.token_hex(8) if shared else ""] * count
            first += count
        return found

    def _advice(self, job: Job) -> str:
        """Say what to do where a stage was killed for want of memory."""
        return headroom.balance(job) if self.cluster.own else "give more stages, or each more --execution.memory"

    def interrupt(self) -> None:
        self._interrupted = True  # the first stage is told when we listen next: Ray is not called in a signal handler

    def close(self) -> None:
        self.group.release()
        self.cluster.close()

    def _make_layout(self, job: Job) -> Layout:
        """Make the layout for the stages that were placed."""
        job = replace(job, network=sendable(job.network))
        nodes = tuple(process.node for process in self.group.processes)
        room = StoreCapacity(nodes, self.cluster.stores(), self.cluster.larger_store)
        # Gone since its stage was placed, and the window follows from the store that it had.
        if not room.capacities.keys() >= set(nodes):
            raise StageLost("the host of a stage is gone")
        self._data_files = self._supply(job)
        # The network is cut by what the first replica of each stage takes: all of them have asked for the same.
        firsts = [sum(self._counts[:stage]) for stage in range(len(self._counts))]
        measured, places = self.measure(job), self.group.places
        measured = replace(measured, costs=[measured.costs[first] for first in firsts])
        of_stages = replace(room, nodes=[nodes[first] for first in firsts])
        devices = [places[first].device for first in firsts]
        layout = make_layout(job, len(firsts), measured, of_stages, devices, self._counts)
        return replace(layout, notes=self.cluster.notes(least_store(layout.stages, of_stages.nodes, layout.window)))

    def _supply(self, job: Job) -> dict[str, tuple[str, ...]]:
        """See to it that the hosts of the first stage have the data, one after the other. Returns the names of what was
        sent, by node. Raises UserError, StageLost."""
        here, count = ray.get_runtime_context().get_node_id(), self._counts[0]
        first_stage = zip(self.group.processes[:count], self.group.actors[:count], strict=True)
        elsewhere = {process.node: actor for process, actor in first_stage if process.node != here}
        return {
            node: supply(
                job,
                partial(self.group.ask_one, actor.host_data, seconds=SECONDS_TO_SET_UP),
                self.cluster.address(node),
            )
            for node, actor in elsewhere.items()
        }

    def measure(self, job: Job) -> Measured:
        """Measure the costs of every block on every stage's device, and of a message between neighbours."""
        costs = self.group.ask(
            lambda: [
                actor.measure.remote(job.network, job.config.execution, place.device, threads_of(place))
                for actor, place in zip(self.group.actors, self.group.places, strict=True)
            ]
        )
        processors = [
            (process.node, place.device, threads_of(place)) if place.device == "cpu" else process
            for process, place in zip(self.group.processes, self.group.places, strict=True)
        ]
        return Measured(pooled(costs, processors), self.message_seconds())

    def message_seconds(self) -> float:
        """Measure the seconds of a message of TIMED_BYTES between neighbours."""
        pairs = list(zip(self.group.actors, self.group.actors[1:], strict=False))
        trips = [self.group.ask_one(a.round_trip, b, TIMED_BYTES) for a, b in pairs[:MEASURED_EDGES]]
        return statistics.median(trips) if trips else 0.0

    def _listen(self, timeout: float, layout: Layout, on_report: OnReport) -> None:
        """Fetch reports until every stage has worked the whole plan. Raises with the first failure; one of the program
        itself goes before the loss of a stage, which may be its consequence."""
        calls = self.group.call(lambda actor: actor.run.remote())
        self._running = running = {ref: index for index, ref in enumerate(calls)}
        told = False
        while running:
            if self._interrupted and not told:
                told = True
                within(PATIENCE, "to end the run", self.group.actors[0].interrupt.remote)
            self.cluster.head.look()
            done = self.group.wait(list(running))
            for ref in done:
                self._fetch([ref], [running.pop(ref)], layout, timeout, on_report)
            started = time.monotonic()
            # Those that are through as well: what one had sent and nobody had fetched yet is lost with it.
            asked = self.group.call(lambda actor: actor.report.remote()) if running else []
            waited = self._fetch(asked, list(range(len(asked))), layout, timeout, on_report)
            # One that waits may have a slow neighbour; when all wait, nothing is under way that could end it.
            if running and min(waited[index] for index in running.values()) > timeout:
                raise StageLost(f"no stage has had anything to do for {timeout:g} s: a message was lost")
            if not done:
                time.sleep(max(0.0, started + POLL_SECONDS / 2 - time.monotonic()))

    def _fetch_last(self, timeout: float, on_report: OnReport) -> None:
        """Fetch what nobody has fetched when a stage fails. A snapshot becomes whole if every stage has begun to write
        it: one that its marker has not reached is not waited for."""
        reports: list[StageReport] = []
        with suppress(Exception):  # which would hide what went wrong
            deadline = time.monotonic() + timeout
            calls = self.group.call(lambda actor: actor.report_last.remote())
            reports += gathered(calls, self.group.get, deadline)
        # A stage that has come to its end meanwhile reports by its run.
        reports += gathered(self._running, self.group.get, time.monotonic())
        with suppress(Exception):
            for report in sorted(reports, key=lambda report: report.step):
                on_report(report)

    def _fetch(
        self, refs: list[Any], indices: list[int], layout: Layout, timeout: float, on_report: OnReport
    ) -> list[float]:
        """Fetch the reports of these stages, asked at once, by one deadline. Returns how long each has waited."""
        deadline, waited = time.monotonic() + timeout, []
        for ref, index in zip(refs, indices, strict=True):
            what = str(layout.workers[index])
            try:
                answer: Answer = self.group.get([ref], deadline)[0]
            except ray.exceptions.GetTimeoutError:
                raise StageLost(f"{what} did not answer for {timeout:g} s") from None
            except ray.exceptions.RayError as error:
                raise failure(f"{what} failed", error) from error
            for report in answer.reports:
                on_report(report)
            waited.append(answer.waited)
        return waited


def gathered(
    calls: Iterable[Any], get: Callable[[list[Any], float], list[Answer]], deadline: float
) -> list[StageReport]:
    """Return the reports that calls answer until a deadline. get: returns the results of some of them. There will
    be no more than are there already where the head node is gone."""
    reports: list[StageReport] = []
    for call in calls:
        try:
            reports += get([call], deadline)[0].reports
        except ClusterLost:
            deadline = time.monotonic()
        except Exception:  # one that is gone has none; the others have
            continue
    return reports

"""A stage's place in the cluster: a Ray actor that holds a worker and carries messages between workers.

Messages are calls of `push` from actor to actor; large arrays go through the object store and are read in
place. The module imports torch only when the actor is told what to do, so that a process that was placed
answers at once.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray

from ffpipe.system.memory import LARGE_ARRAY, unmap, unmap_large
from ffpipe.system.processes import start_ticks

if TYPE_CHECKING:
    from ffpipe.config.schema import Execution
    from ffpipe.learn.blueprint import Blueprint
    from ffpipe.learn.negatives import Predictions
    from ffpipe.pipeline.packet import Arrays, Packet
    from ffpipe.pipeline.reducer import Reducer
    from ffpipe.pipeline.schedule import Item
    from ffpipe.pipeline.shared_sums import SharedSums
    from ffpipe.pipeline.stage_spec import StageSpec
    from ffpipe.pipeline.worker_setup import Parts, WorkerSetup
    from ffpipe.planning.calibrate import Costs
    from ffpipe.storage.store import Store
    from ffpipe.telemetry.report import Answer

# Ray keeps arguments of up to so many bytes with the call.
SMALL = 100 << 10
# Messages, and questions of the driver, are taken while `run` works.
CONCURRENCY = {"inbox": 1, "control": 1, "sums": 1}
# The first one makes the connection, and whatever else a host does at the moment only adds to the others.
ROUND_TRIPS = 5


class Process(NamedTuple):
    """A process on a host: Ray's node id, process id, and when it began, since ids are used again."""

    node: str
    id: int
    began: int


class StageActor:
    """The actor of a stage: made, measured, set up, run once, killed."""

    def __init__(self) -> None:
        self.worker: Any = None
        self._links: RayLinks
        self._host_data: Any = None

    def ping(self) -> None:
        """Answer as soon as the actor has been placed."""

    def measure(self, network: Blueprint, execution: Execution, device: str, threads: int) -> Costs:
        """Measure what the blocks cost here (calibrate.py)."""
        import torch

        from ffpipe.pipeline.worker_setup import set_allocator
        from ffpipe.planning.calibrate import measure_costs

        torch.set_num_threads(threads)
        set_allocator(network, execution)
        return measure_costs(network, torch.device(device))

    def round_trip(self, other: Any, size: int) -> float:
        """Return the seconds until another actor has got an array of `size` bytes from here; the least of a few."""
        array = np.zeros(size, dtype=np.uint8)
        seconds = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            ray.get(other.receive.remote(stored(array)))
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    @ray.method(concurrency_group="inbox")
    def receive(self, array: Any) -> None:
        """Take an array, as the other end of `round_trip`."""
        unmap_large(array)

    # In no concurrency group, so that `process` is answered meanwhile: a slow store may take minutes.
    def problem_here(self, store: Store, mark: str) -> str:
        """Return the reason why this host cannot reach the snapshots (reach.py)."""
        from ffpipe.engines.ray.reach import problem_here

        return problem_here(store, mark)

    def host_data(self, method: str, *arguments: Any) -> Any:
        """Call a method of this host's data (supply.py)."""
        from ffpipe.engines.ray.supply import HostData

        self._host_data = self._host_data or HostData()
        return getattr(self._host_data, method)(*arguments)

    def set_up(self, setup: WorkerSetup, parts: Parts, actors: list[Any], threads: int, channel: str = "") -> None:
        """Make the worker; all of them exist once this returns everywhere. channel: of the sums of its stage, where its
        replicas are on one host (shared_sums.py)."""
        import torch

        from ffpipe.pipeline.worker import Worker
        from ffpipe.pipeline.worker_setup import set_allocator

        torch.set_num_threads(threads)
        set_allocator(setup.spec.network, setup.config.execution)
        self._links = RayLinks(setup.spec, actors)
        self.worker = Worker(setup, parts, self._links)
        if channel:
            self._links.share_sums(channel, self.worker.reducer)

    @ray.method(concurrency_group="inbox")
    def push(self, sequence: int, sender: int, item: Item, names: tuple[tuple[str, str], ...], *arrays: Any) -> None:
        """Take a packet of message `sequence` from worker `sender`. names: name and dtype of each array."""
        # Arrays are arguments of their own because those, and no arrays inside others, go by the object store.
        from ffpipe.pipeline.packet import Array, Packet

        packed = {name: Array(dtype, data) for (name, dtype), data in zip(names, arrays, strict=True)}
        self.worker.push(sequence, sender, Packet(item, packed))

    @ray.method(concurrency_group="sums")
    def put_sums(self, number: int, replica: int, name: str, dtypes: tuple[str, ...], *arrays: Any) -> None:
        """Take sums of round `number` from another replica of the stage. dtypes: of the arrays."""
        from ffpipe.pipeline.packet import Array

        sums = {str(place): Array(*each) for place, each in enumerate(zip(dtypes, arrays, strict=True))}
        self.worker.reducer.put(number, replica, name, sums)

    @ray.method(concurrency_group="inbox")
    def done(self, predictions: Predictions) -> None:
        """Note that the last stage is through with the oldest item in flight, and take its predictions."""
        self.worker.done(predictions)

    @ray.method(concurrency_group="control")
    def interrupt(self) -> None:
        """Save and end the run after the chunk in hand; called on the first stage."""
        self.worker.interrupt()

    @ray.method(concurrency_group="control")
    def process(self) -> Process:
        """Return the host and process of this stage."""
        return Process(ray.get_runtime_context().get_node_id(), os.getpid(), start_ticks(os.getpid()))

    @ray.method(concurrency_group="control")
    def report(self) -> Answer:
        """Return the reports since the last call, and how long the stage has waited."""
        from ffpipe.telemetry.report import Answer

        return Answer(self.worker.drain(), self.worker.waited)

    @ray.method(concurrency_group="control")
    def report_last(self) -> Answer:
        """Return the reports since the last call and one of this moment, with the snapshot that is being written."""
        from ffpipe.telemetry.report import Answer

        return Answer(self.worker.report_last() if self.worker else [])

    def run(self) -> Answer:
        """Work the whole plan. Returns the reports that nobody has fetched."""
        from ffpipe.telemetry.report import Answer

        try:
            return Answer(self.worker.run())
        finally:
            self._links.close()


class RayLinks:
    """Links that are calls of other actors, whose results nobody waits for: a dead one is the driver's to notice.
    Packets are copied before a call returns."""

    def __init__(self, spec: StageSpec, actors: list[Any]) -> None:
        """actors: of all replicas of all stages, in the order of their numbers."""
        self._number, self._replica = spec.replicas.number(spec.index, spec.replica), spec.replica
        self._actors = actors
        self._first = spec.replicas.number(spec.index, 0)
        self._others = spec.replicas.others(spec.index, spec.replica)
        self._shared: SharedSums | None = None

    def share_sums(self, channel: str, reducer: Reducer) -> None:
        """Send sums by memory of this host from now on. reducer: takes those of others."""
        from ffpipe.pipeline.shared_sums import SharedSums

        self._shared = SharedSums(channel, self._replica, self._others, reducer.put, reducer.fail)

    def close(self) -> None:
        """Let go of that memory."""
        if self._shared is not None:
            self._shared.close()

    def to(self, receiver: int, sequence: int, packet: Packet) -> None:
        names = tuple((name, array.dtype) for name, array in packet.arrays.items())
        arrays = [stored(array.data) for array in packet.arrays.values()]
        self._actors[receiver].push.remote(sequence, self._number, packet.item, names, *arrays)

    def done(self, predictions: Predictions) -> None:
        self._actors[0].done.remote(predictions)

    def to_replicas(self, number: int, name: str, sums: Arrays) -> None:
        if self._shared is not None:
            self._shared.send(number, name, sums)
            return
        dtypes = tuple(array.dtype for array in sums.values())
        arrays = [stored(array.data) for array in sums.values()]
        if len(self._others) > 1:  # else Ray puts what is not small once for each of them
            arrays = [ray.put(each) if getattr(each, "nbytes", 0) > SMALL else each for each in arrays]
        for other in self._others:
            self._actors[self._first + other].put_sums.remote(number, self._replica, name, dtypes, *arrays)

    def read(self, arrays: Arrays) -> None:
        for array in arrays.values():
            unmap_large(array.data)


def stored(array: Any) -> Any:
    """Put a large array into the object store. Its pages there are not left mapped into this process, in which
    they would add up to the whole store: every message lies elsewhere."""
    if array.nbytes < LARGE_ARRAY:
        return array
    ref = ray.put(array)
    unmap(ray.get(ref))
    return ref

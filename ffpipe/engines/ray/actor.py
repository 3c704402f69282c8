"""A stage's place in the cluster: a Ray actor that holds a worker and carries messages between workers.

Messages are calls of `push` from actor to actor; large arrays go through the object store and are read in
place. The module imports torch only when the actor is told what to do, so that a process that was placed
answers at once.
"""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray

from ffpipe.system.memory import give_back_at_once, unmap, unmap_around
from ffpipe.system.processes import start_ticks

if TYPE_CHECKING:
    from ffpipe.config.schema import Training
    from ffpipe.pipeline.inbox import Part
    from ffpipe.pipeline.links import Links, Predictions
    from ffpipe.pipeline.schedule import Item
    from ffpipe.pipeline.worker import Parts, WorkerSetup
    from ffpipe.planning.calibrate import Costs
    from ffpipe.storage.store import Store
    from ffpipe.telemetry.report import Answer

# Arrays of this size are in the object store and nowhere else: Ray keeps arguments of up to 100 KB with the call.
LARGE = 1 << 20
# Messages, and questions of the driver, are taken while `run` works.
CONCURRENCY = {"inbox": 1, "control": 1}
ROUND_TRIPS = 5
# Arrays after which the whole store is taken out of sight, since each leaves up to 128 KB around it.
ROUND = 16
_UNMAPPED = itertools.count(1)


class Process(NamedTuple):
    """A process on a host: Ray's node id, process id, and when it began, since ids are used again."""

    node: str
    id: int
    began: int


class StageActor:
    """Made, measured, set up, run once, killed."""

    def __init__(self) -> None:
        give_back_at_once()
        self.worker: Any = None
        self._shelf: Any = None

    def ping(self) -> None:
        """Answer as soon as the actor has been placed."""

    def measure(self, training: Training, width: int, classes: int, device: str, threads: int) -> Costs:
        """What the layers cost here (calibrate.py)."""
        import torch

        from ffpipe.planning.calibrate import measure_costs

        torch.set_num_threads(threads)
        return measure_costs(training, width, classes, torch.device(device))

    def round_trip(self, other: Any, size: int) -> float:
        """Seconds until another actor has got an array of `size` bytes from here; the least of a few."""
        array = np.zeros(size, dtype=np.uint8)
        seconds = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            ray.get(other.receive.remote(_stored(array)))
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    @ray.method(concurrency_group="inbox")
    def receive(self, array: Any) -> None:
        """The other end of `round_trip`."""
        _unmap(array)

    @ray.method(concurrency_group="control")
    def reaches(self, store: Store, mark: str) -> str:
        """What keeps this host from the snapshots, in words; empty: nothing. mark: a file that the driver wrote."""
        try:
            if not store.exists(mark):
                return "does not see"
            own = f"{mark}-{os.getpid()}"
            store.write(own, [b""])
            store.remove(own)
        except OSError as error:
            return f"cannot write to ({error.strerror or error})"
        return ""

    def shelf(self, method: str, *arguments: Any) -> Any:
        """Call a method of this host's shelf (supply.py)."""
        from ffpipe.engines.ray.supply import Shelf

        self._shelf = self._shelf or Shelf()
        return getattr(self._shelf, method)(*arguments)

    def set_up(self, setup: WorkerSetup, parts: Parts, actors: list[Any], threads: int) -> None:
        """Make the worker; all of them exist once this returns everywhere."""
        import torch

        from ffpipe.pipeline.worker import Worker

        torch.set_num_threads(threads)
        # Arrays from the object store are read-only, and so are streams by contract.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        self.worker = Worker(setup, parts, _ray_links(setup.spec.index, actors))

    @ray.method(concurrency_group="inbox")
    def push(self, sequence: int, sender: int, item: Item, layers: tuple[int, ...], *arrays: Any) -> None:
        """A part of message `sequence` from stage `sender`: rows, labels, goodness, then features of `layers`.

        Arrays are arguments of their own because those, and no arrays inside others, go by the object store.
        """
        from ffpipe.pipeline.inbox import Part

        features = dict(zip(layers, arrays[3:], strict=True))
        self.worker.push(sequence, sender, Part(item, (arrays[0], arrays[1], arrays[2]), features))

    @ray.method(concurrency_group="inbox")
    def returned(self, predictions: Predictions) -> None:
        """The last stage is through with the oldest item in flight."""
        self.worker.returned(predictions)

    @ray.method(concurrency_group="control")
    def interrupt(self) -> None:
        """Save and end the run after the chunk in hand; called on the first stage."""
        self.worker.interrupt()

    @ray.method(concurrency_group="control")
    def process(self) -> Process:
        """Where this stage runs."""
        return Process(ray.get_runtime_context().get_node_id(), os.getpid(), start_ticks(os.getpid()))

    @ray.method(concurrency_group="control")
    def report(self) -> Answer:
        """Reports since the last call, and how long the stage has waited."""
        from ffpipe.telemetry.report import Answer

        return Answer(self.worker.drain(), self.worker.waited)

    def run(self) -> Answer:
        """Work the whole plan. Returns the reports that nobody has fetched."""
        from ffpipe.telemetry.report import Answer

        return Answer(self.worker.run())


class RayLinks:
    """Links that are calls of other actors, whose results nobody waits for: a dead one is the driver's to notice.

    What is sent is copied before a call returns.
    """

    def __init__(self, index: int, actors: list[Any]) -> None:
        self._index = index
        self._next = actors[min(index + 1, len(actors) - 1)]
        self._first, self._last = actors[0], actors[-1]

    def to_next(self, sequence: int, part: Part) -> None:
        self._push(self._next, sequence, part)

    def to_last(self, sequence: int, part: Part) -> None:
        self._push(self._last, sequence, part)

    def to_first(self, predictions: Predictions) -> None:
        self._first.returned.remote(predictions)

    def read(self, parts: Iterable[Part]) -> None:
        for part in parts:
            for array in (*part.arrays, *part.features.values()):
                _unmap(array)

    def _push(self, actor: Any, sequence: int, part: Part) -> None:
        arrays = [_stored(array) for array in (*part.arrays, *part.features.values())]
        actor.push.remote(sequence, self._index, part.item, tuple(part.features), *arrays)


def _stored(array: Any) -> Any:
    """A large array by its place in the object store. Its pages there are not kept in sight of this process, in which
    they would add up to the whole store: every message lies elsewhere."""
    if array is None or array.nbytes < LARGE:
        return array
    ref = ray.put(array)
    _unmap(ray.get(ref))
    return ref


def _unmap(array: Any) -> None:
    """Take a large array out of sight, and now and then what came into it around the others."""
    if array is not None and array.nbytes >= LARGE:
        unmap(array.ctypes.data, array.nbytes)
        if next(_UNMAPPED) % ROUND == 0:
            unmap_around(array.ctypes.data)


def _ray_links(index: int, actors: list[Any]) -> Links:
    from ffpipe.pipeline.links import NoLinks

    return RayLinks(index, actors) if len(actors) > 1 else NoLinks()

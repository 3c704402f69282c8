"""A stage as a Ray actor. The only code that runs inside actors; what it does is in `Stage`, `Feed` and `Flow`.

    [1] first stage: the window allows an item -> feed makes its streams -> stage handles them
    [2] publisher thread: rows to the next stage, features for the head straight to the last one
    [3] inbox of the next stage: ordered and complete -> stage handles them -> [2]
    [4] last stage: "done" and the head's predictions back to the first one -> [1]

Messages are calls of `push` from actor to actor; large arrays go through the object store and are read
in place. The driver sees reports alone.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from ffpipe.config import Config
from ffpipe.data.splits import load_splits
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.inbox import Inbox, Part
from ffpipe.pipeline.job import write_layers
from ffpipe.pipeline.schedule import Flow, Item, Plan, Train
from ffpipe.pipeline.stage import Stage, StageSpec
from ffpipe.pipeline.streams import Streams, to_array, to_tensor
from ffpipe.telemetry.clock import StageClock
from ffpipe.telemetry.report import StageReport

# Messages, and questions of the driver, are taken while `run` works.
CONCURRENCY = {"inbox": 1, "control": 1}
REPORT_SECONDS = 0.5
# Two messages may wait to be published while the next is computed; more would only hold memory.
PUBLISH_AHEAD = 2


@dataclass(frozen=True)
class ActorSetup:
    """What an actor is made from."""

    spec: StageSpec
    plan: Plan
    window: int
    config: Config
    checkpoints: Path
    threads: int
    senders: tuple[int, ...]


class StageActor:
    """One stage of the pipeline. Made, connected, run once, killed."""

    def __init__(self, setup: ActorSetup) -> None:
        torch.set_num_threads(setup.threads)
        # Arrays from the object store are read-only, and so are streams by contract.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        self.setup = setup
        self.spec = setup.spec
        self.stage = Stage(setup.spec, partial(write_layers, setup.checkpoints))
        self.inbox = Inbox(setup.senders)
        self.returns = _Returns(setup.window)
        self.reports: deque[StageReport] = deque()
        self.clock = StageClock()
        self.feed: Feed | None = None
        if self.spec.index == 0:
            config = setup.config
            splits = load_splits(config.training.data, config.execution.data_dir)
            self.feed = Feed(config.training, splits, self.stage.device)
        self.next: Any = None
        self.first: Any = None
        self.last: Any = None

    def connect(self, actors: list[Any]) -> None:
        """Learn who the others are; all of them exist once this returns everywhere."""
        index = self.spec.index
        self.next = None if self.spec.is_last else actors[index + 1]
        self.first, self.last = actors[0], actors[-1]

    @ray.method(concurrency_group="inbox")
    def push(
        self, sequence: int, sender: int, rows: Any, labels: Any, goodness: Any, layers: tuple[int, ...], *features: Any
    ) -> None:
        """A part of message `sequence` from stage `sender`."""
        self.inbox.put(sequence, sender, Part((rows, labels, goodness), dict(zip(layers, features, strict=True))))

    @ray.method(concurrency_group="inbox")
    def returned(self, predictions: dict[int, NDArray[np.float32]]) -> None:
        """The last stage is through with the oldest item in flight; called on the first stage."""
        self.returns.done(predictions)

    @ray.method(concurrency_group="control")
    def report(self) -> list[StageReport]:
        """Reports since the last call."""
        return self._drain()

    def run(self) -> list[StageReport]:
        """Work all items of the plan. Returns the reports that nobody has fetched."""
        publisher = _Publisher(self)
        self.clock = StageClock()
        reported = time.monotonic()
        try:
            for sequence, (item, streams) in enumerate(self._items()):
                with self.clock.busy(training=isinstance(item, Train)):
                    out = self.stage.handle(item, streams)
                if self.spec.is_last:
                    self._finish(item)
                else:
                    publisher.publish(sequence, item, out)
                if time.monotonic() - reported > REPORT_SECONDS:
                    self._report()
                    reported = time.monotonic()
            publisher.close()
        finally:
            publisher.stop()
        self._report()
        return self._drain()

    def _items(self) -> Iterator[tuple[Item, Streams | None]]:
        for item in self.setup.plan.items():
            if self.feed is not None:
                self.feed.predictions(self.returns.wait_to_send(self.setup.plan.weight(item)))
                with self.clock.busy(training=isinstance(item, Train)):
                    streams = self.feed.streams(item)
                yield item, streams
            else:
                yield item, self._joined(self.inbox.take())

    def _joined(self, parts: dict[int, Part]) -> Streams | None:
        """One message from its parts; the rows come from the stage before."""
        arrays = parts[self.spec.index - 1].arrays
        if arrays[0] is None:
            return None
        streams = Streams.from_arrays(*arrays, self.stage.device)
        for part in parts.values():
            for layer, array in part.features.items():
                feature = to_tensor(array, self.stage.device)
                assert feature is not None
                streams.features[layer] = feature
        return streams

    def _finish(self, item: Item) -> None:
        predictions = self.stage.predictions(item)
        if self.spec.index == 0:
            self.returns.done(predictions)
        else:
            self.first.returned.remote(predictions)

    def _drain(self) -> list[StageReport]:
        return [self.reports.popleft() for _ in range(len(self.reports))]

    def _report(self) -> None:
        self.reports.append(self.clock.stamp(self.stage.report()))


class _Returns:
    """The first stage's window, and the predictions that came back, shared between two threads."""

    def __init__(self, window: int) -> None:
        self._flow = Flow(window)
        self._predictions: dict[int, NDArray[np.float32]] = {}
        self._changed = threading.Condition()

    def wait_to_send(self, weight: int) -> dict[int, NDArray[np.float32]]:
        """Wait until an item of this weight may leave, count it as sent; returns what came back meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._flow.may_send(weight))
            self._flow.sent(weight)
            back, self._predictions = self._predictions, {}
            return back

    def done(self, predictions: dict[int, NDArray[np.float32]]) -> None:
        with self._changed:
            self._flow.done()
            self._predictions.update(predictions)
            self._changed.notify_all()


class _Publisher:
    """Sends a stage's results from a thread of its own, so that the stage computes while they travel."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._queue: queue.Queue[tuple[int, Streams | None] | None] = queue.Queue(PUBLISH_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def publish(self, sequence: int, item: Item, streams: Streams | None) -> None:
        """Queue one message; waits while two are queued. Raises what went wrong with an earlier one."""
        if self._error is not None:
            raise self._error
        self._queue.put((sequence, streams))

    def close(self) -> None:
        """Wait until everything is sent."""
        self.stop()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._send(*message)
                except BaseException as error:  # handed to the stage's own thread, which raises it
                    self._error = error

    def _send(self, sequence: int, streams: Streams | None) -> None:
        actor, index = self._actor, self._actor.spec.index
        layers: tuple[int, ...] = ()
        features: list[Any] = []
        arrays: tuple[Any, Any, Any] = (None, None, None)
        if streams is not None:
            layers = tuple(streams.features)
            features = [to_array(tensor) for tensor in streams.features.values()]
            arrays = streams.to_arrays()
        if index == self._actor.spec.stages - 2:
            actor.next.push.remote(sequence, index, *arrays, layers, *features)
            return
        actor.next.push.remote(sequence, index, *arrays, ())
        if actor.spec.features:
            actor.last.push.remote(sequence, index, None, None, None, layers, *features)


def senders(specs: tuple[StageSpec, ...], index: int) -> tuple[int, ...]:
    """Which stages send stage `index` a part of every message: the one before, and the last gets features too."""
    before = {index - 1} if index else set()
    others = {spec.index for spec in specs[:-2] if spec.features} if specs[index].is_last else set()
    return tuple(sorted(before | others))

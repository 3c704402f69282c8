"""A worker runs one stage: takes messages in order, computes, publishes from a second thread.

    [1] first stage: the window has room for the next item -> its first replica sends it to the others -> in each the
        feed makes rows and labels, and keeps those of its shards -> the stage handles them; what it hands on leaves
        before the last block's last update, where the layout allows it (`leave`)
    [2] publisher thread: a packet to the next stage, and straight to others what routes.py says
    [3] inbox of the next stage: ordered and complete -> the stage handles them -> [2]
    [4] last stage: `done`, with the head's predictions, to the first one, which frees its window -> [1]

It knows its neighbours as `Links` and nothing of Ray.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import cast

from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.arrivals import Arrivals
from ffpipe.pipeline.delivery import Delivery, is_shared, predictions_of, with_predictions
from ffpipe.pipeline.inbox import Inbox
from ffpipe.pipeline.links import Links
from ffpipe.pipeline.packet import Packet, Tensors, to_arrays, to_tensors
from ffpipe.pipeline.publisher import Publish, Publisher
from ffpipe.pipeline.reducer import Reducer
from ffpipe.pipeline.saver import Saver, Witness
from ffpipe.pipeline.schedule import Item, Snapshot, Stop, Train
from ffpipe.pipeline.window import Flow
from ffpipe.pipeline.worker_setup import AnyStage, Parts, ReplicatedStage, WorkerSetup
from ffpipe.telemetry.report import StageReport
from ffpipe.telemetry.spans import Kind, Spans

REPORT_SECONDS = 0.5


class Worker:
    """One stage with its inbox, window and publisher. `push` and `done` may be called from any thread."""

    def __init__(self, setup: WorkerSetup, parts: Parts, links: Links, report_seconds: float = REPORT_SECONDS) -> None:
        self.setup, self._report_seconds = setup, report_seconds
        self.spec = setup.spec
        self.saver = Witness(setup.store, str(self.spec)) if self.spec.replica else parts.saver(setup.store)
        self.stage = parts.stage(setup, self.saver)
        self.feed = parts.feed(setup) if self.spec.index == 0 else None
        # It chooses the items, and has the window.
        self.leads = self.spec.index == self.spec.replica == 0
        self.links = links
        self.delivery = Delivery(self.spec)
        self.inbox = Inbox(self.delivery.senders)
        self.returns = _Returns(setup.window)
        seconds = setup.config.execution.snapshot_seconds
        self.stream = parts.stream(setup.plan, setup.start.step, seconds, time.monotonic)
        # Several threads append to it and take from it, for which a deque needs no lock.
        self._reports: deque[StageReport] = deque()
        self._spans = Spans(keep=False)  # `run` makes others, whose seconds begin there
        self._waits_since: float | None = None
        self._trained = (0.0, 0.0)  # when the first training item began and the latest ended
        count, waiting = 1 + len(self.delivery.others), partial(self._waiting, "exchange")
        self.reducer = Reducer(self.spec.replica, count, links.to_replicas, links.read, waiting)
        if self.delivery.others:
            cast(ReplicatedStage, self.stage).join(self.reducer)

    def push(self, sequence: int, sender: int, packet: Packet) -> None:
        """Take a packet of message `sequence` from worker `sender`."""
        self.inbox.put(sequence, sender, packet)

    def done(self, predictions: Predictions) -> None:
        """Note, in the first replica of the first stage, that the last stage is through with the oldest item in flight;
        keep its predictions for the feeds."""
        self.returns.done(predictions)

    def interrupt(self) -> None:
        """Save and end the run after the chunk in hand; for the first stage."""
        self.stream.interrupt()

    def drain(self) -> list[StageReport]:
        """Return the reports since the last call."""
        reports: list[StageReport] = []
        with suppress(IndexError):  # another thread may drain too
            while True:
                reports.append(self._reports.popleft())
        return reports

    def report_last(self) -> list[StageReport]:
        """Return the reports since the last call and one of this moment, with the snapshot that is being written; for
        another thread, when a stage has failed and what the others do after it is lost."""
        self.saver.wait()
        self.report()
        return self.drain()

    @property
    def waited(self) -> float:
        """Seconds for which it has had nothing to do; 0 while it computes or is not running."""
        since = self._waits_since
        return time.monotonic() - since if since is not None else 0.0

    def run(self) -> list[StageReport]:
        """Work all items of the plan. Returns the reports that nobody has drained."""
        self._spans = Spans(keep=self.setup.config.execution.trace)
        publisher = Publisher(self.send, self._spans, self._fail)
        reported = 0.0
        try:
            for sequence in itertools.count():
                item = self.work(sequence, publisher.publish)
                if isinstance(item, Stop):
                    break
                if self._spans.elapsed - reported > self._report_seconds:
                    self.report()
                    reported = self._spans.elapsed
            publisher.close()  # raises what went wrong with the last messages, which no later one would
        finally:
            publisher.stop()
            # After an error too: a snapshot that has passed becomes whole, if the other stages have written theirs.
            self.saver.wait()
        self.report()
        return self.drain()

    def work(self, sequence: int, publish: Publish) -> Item:
        """Do the next item, the first stage's own choice or the one that arrives; waits until it may."""
        packets: dict[int, Packet] = {}
        if self.leads:
            item = next(self.stream)
            with self._waiting("credit"):
                back = self.returns.wait_to_send(self.setup.plan.weight(item))
        else:
            with self._waiting("input"):
                packets = self.inbox.take()
            item = next(iter(packets.values())).item  # all senders have sent that of the same message
            back = predictions_of(packets[0]) if self.feed is not None else {}
        begun = self._spans.elapsed
        left = False

        def leave(made: Tensors | None) -> None:
            nonlocal left
            left = True
            # Early, it is within the span of computing, and interrupts it: seconds are counted once.
            with self._waiting("blocked"):
                publish(sequence, item, made)

        with self._spans.span("compute", label=str(item)):
            out = None
            if self.leads:
                told = with_predictions(item, back)
                for other in self.delivery.others:
                    self.links.to(other, sequence, told)
            if self.feed is not None:
                # Before the rows are made: those of this very item may be among them.
                self.feed.take_predictions(back)
            # Evaluations are the first replica's; of snapshots the others tell the digests of what it writes.
            if self.spec.replica == 0 or is_shared(item) or isinstance(item, Snapshot):
                tensors = self._tensors(item, packets)
                out = self.stage.handle(item, tensors, leave if self.setup.leaves_early else None)
        # Arrays that came in leave the object store before what goes out enters it (planning/memory.py); a feed keeps
        # its predictions until it has used them.
        if self.feed is None:
            self._read(packets)
        packets, tensors = {}, None
        if isinstance(item, Train):
            self._trained = (self._trained[0] or begun, self._spans.elapsed)
        if not self.spec.is_last:
            if not left:
                leave(out)
        elif self.leads:
            self.returns.done(self.stage.predictions(item))
        elif self.spec.replica == 0:
            self.links.done(self.stage.predictions(item))
        return item

    def _fail(self, error: BaseException) -> None:
        """End a wait by an error: where a message was not sent, there may be no further one to publish or to take."""
        self.inbox.fail(error)
        self.returns.fail(error)

    @contextmanager
    def _waiting(self, kind: Kind) -> Iterator[None]:
        """Record a span in which the stage depends on others."""
        self._waits_since = time.monotonic()
        with self._spans.span(kind):
            yield
        self._waits_since = None

    def _tensors(self, item: Item, packets: dict[int, Packet]) -> Tensors | None:
        """Return what the stage gets with an item: what its feed makes, or what came."""
        if self.feed is not None:
            return self.feed.tensors(item)
        arrays = self.delivery.joined(packets)
        return to_tensors(arrays, self.stage.device) if arrays else None

    def _read(self, packets: dict[int, Packet]) -> None:
        for packet in packets.values():
            self.links.read(packet.arrays)

    def send(self, sequence: int, item: Item, tensors: Tensors | None) -> None:
        """Publish one result; called from the publisher's thread."""
        for receiver, part in self.delivery.parts(item, to_arrays(tensors or {})).items():
            self.links.to(receiver, sequence, Packet(item, part))

    def report(self) -> None:
        """Put what happened since the last time where `drain` finds it."""
        report = report_of(self.stage, self.saver, self._spans, self._trained)
        report.replica = self.spec.replica
        if self.spec.replica:  # the first tells it for all
            report.rows, report.evaluations = [], []
        self._reports.append(report)


class _Returns(Arrivals):
    """The first stage's window, and the predictions that came back, shared between two threads."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.flow = Flow(window)
        self._predictions: Predictions = {}

    def wait_to_send(self, weight: int) -> Predictions:
        """Wait until an item of this weight may leave, count it as sent; returns what came back meanwhile. Raises what
        `fail` was given."""
        with self._changed:
            self._wait(lambda: self.flow.may_send(weight))
            self.flow.sent(weight)
            back, self._predictions = self._predictions, {}
            return back

    def done(self, predictions: Predictions) -> None:
        with self._changed:
            self.flow.done()
            self._predictions.update(predictions)
            self._changed.notify_all()


def report_of(stage: AnyStage, saver: Saver, spans: Spans, trained: tuple[float, float]) -> StageReport:
    """Return the progress of a stage since its last report. trained: when its training began and ended, in seconds."""
    report = stage.report()
    report.began_at, report.seconds = spans.began_at, spans.elapsed
    report.train_began, report.train_seconds = trained
    report.seconds_by_kind = dict(spans.totals)
    report.spans = spans.drain()
    report.files, report.failures = saver.drain()
    return report

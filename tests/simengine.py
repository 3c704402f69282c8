"""An engine whose stages take turns in one thread: what the next event is, chance decides (world.py).

Its workers are real ones, with item stream, window, inbox, stage and saver. It takes the part of threads, processes and
the network between them, as the Ray engine's are: messages arrive in any order, those to the first stage excepted;
stages are asked for reports, die, fall silent or raise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from expected import splits
from world import StageDied, World

from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.pipeline.packet import Arrays, Packet
from ffpipe.pipeline.publisher import PUBLISH_AHEAD
from ffpipe.pipeline.saver import FileState, Saver
from ffpipe.pipeline.schedule import Item, ItemStream, Plan, Stop, Train
from ffpipe.pipeline.worker import Worker
from ffpipe.pipeline.worker_setup import AnyFeed, Parts, WorkerSetup, make_feed, make_own_stage
from ffpipe.planning.calibrate import Costs
from ffpipe.planning.layout import Measured, make_layout
from ffpipe.storage.store import Pieces, Store
from ffpipe.system.errors import Diverged, RunFailed, StageLost, UserError


class HeldSaver(Saver):
    """A saver without a thread: it writes a file at a time, when the engine says so, or when somebody waits."""

    def __init__(self, todo: deque[Callable[[], None]], store: Store) -> None:
        super().__init__(store)
        self.todo = todo

    def begin(self, step: int, files: Mapping[str, FileState]) -> None:
        self.todo += [partial(self.write, step, {name: saved}) for name, saved in files.items()]

    def wait(self) -> None:
        while self.todo:
            self.todo.popleft()()


class StageStore(Store):
    """The snapshots, as one stage reaches them."""

    def __init__(self, root: str, world: World, peer: Peer) -> None:
        super().__init__(root)
        self._world = world
        self._peer = peer

    def write(self, name: str, pieces: Pieces) -> None:
        self._world.write("stage", name)
        if self._peer.gone:
            raise StageDied
        super().write(name, pieces)


class HeldStream(ItemStream):
    """An item stream whose next item can be looked at, as by a first stage that waits until it may leave."""

    held: Item | None = None

    def hold(self) -> None:
        self.held = super().__next__()

    def __next__(self) -> Item:
        assert self.held is not None
        item, self.held = self.held, None
        return item


class Peer:
    """One stage: its worker, what is on its way out, and how it fares. To the others it is its links."""

    def __init__(self, index: int, engine: SimEngine) -> None:
        self.index = index
        self.engine = engine
        self.worker: Worker
        self.outbox: deque[tuple[Any, ...]] = deque()
        self.saves = deque[Callable[[], None]]()  # the files that are still to be written
        self.sequence = 0
        self.news = self.reported = False
        self.stopped = self.finished = self.told = False
        self.gone = self.silent = False
        self.error: RunFailed | None = None

    def to(self, receiver: int, sequence: int, packet: Packet) -> None:
        """Copy and send a packet before the call returns."""
        arrays = {name: array._replace(data=array.data.copy()) for name, array in packet.arrays.items()}
        sent = Packet(packet.item, arrays)
        self.engine.post(self.index, receiver, lambda to: to.worker.push(sequence, self.index, sent))

    def done(self, predictions: Predictions) -> None:
        self.engine.post(self.index, 0, lambda to: to.worker.done(predictions))

    def to_replicas(self, number: int, name: str, sums: Arrays) -> None:
        raise AssertionError("no stage here has replicas")

    def read(self, arrays: Arrays) -> None:
        """Do nothing: nothing lies in shared memory here."""

    def die(self) -> None:
        """Die with all that it was about to send, and what of it was on its way, as chance will have it."""
        if not self.gone:
            self.gone = True
            self.engine.lose(self.index)

    def actions(self) -> Iterator[Callable[[], None]]:
        """Yield what this stage may do next."""
        if self.gone or self.silent:
            return
        if self.saves:
            yield self._save
        if self.error or self.finished:
            return
        if self.outbox:
            yield self._send
        # One result on its way, those that wait for it, and the one that is made: publisher.OUTPUTS must be as many.
        if not self.stopped and len(self.outbox) < PUBLISH_AHEAD + 2:
            stream = self.worker.stream
            assert isinstance(stream, HeldStream)
            if self.index:
                if self.worker.inbox.ready:
                    yield self._work
            elif stream.held is None:
                yield stream.hold
            elif self.worker.returns.flow.may_send(self.worker.setup.plan.weight(stream.held)):
                yield self._work
        if self.news:
            yield self._report
        if self.stopped and not self.outbox and not self.saves:
            yield self._finish

    def _work(self) -> None:
        try:
            item = self.worker.work(self.sequence, lambda *message: self.outbox.append(message))
        except StageDied:
            return
        self.engine.worked(self, item)
        self.sequence += 1
        self.news = True
        self.stopped = isinstance(item, Stop)

    def _send(self) -> None:
        self.worker.send(*self.outbox.popleft())

    def _save(self) -> None:
        try:
            self.saves.popleft()()
        except StageDied:
            return
        self.news = True

    def _report(self) -> None:
        self.worker.report()
        self.news, self.reported = False, True

    def _finish(self) -> None:
        self._report()
        self.finished = True


def _feed(setup: WorkerSetup) -> AnyFeed:
    return make_feed(setup, splits(setup.config.training))


@dataclass
class Message:
    """A message on its way from stage to stage."""

    sender: int
    receiver: int
    deliver: Callable[[Peer], None]


class SimEngine:
    """A stand-in for the Ray engine, and like it in what the controller can see."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.peers: list[Peer] = []
        self._wanted = 0
        self._network: list[Message] = []
        self._flying: deque[Item] = deque()
        self._interrupted = False

    def layout(self, job: Job) -> Layout:
        self._wanted = min(job.config.execution.stages or job.layers, max(1, self.world.room))
        return self._cut(job, self._wanted)

    def layout_again(self, job: Job, store: Store) -> Layout:
        self.world.check_recovery()
        self._release()
        if not self.world.room:
            self.world.no_room = True
            raise RunFailed("no stage finds room in what is left of the cluster")
        return self._cut(job, min(self._wanted, self.world.room))

    def check_store(self, store: Store) -> None:
        """Accept any store: all is on this host."""

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        self.world.engine = self
        self.world.started(start, store)
        try:
            self._run(job, layout, store, start, on_report)
        except Diverged:
            raise
        except RunFailed as error:
            self.world.failed("lost" if isinstance(error, StageLost) else "error")
            raise

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        self._release()

    def _cut(self, job: Job, stages: int) -> Layout:
        """Return the stages that measured this or that."""
        costs = [Costs(tuple(1.0 + self.world.choose(3) for _ in range(job.layers)), 1.0) for _ in range(stages)]
        self.peers = [Peer(index, self) for index in range(stages)]
        return make_layout(job, stages, Measured(costs, self.world.choose(4) / 10))

    def _release(self) -> None:
        """Discard all stages; what one writes that we cannot reach may still come to the disk, at any time."""
        for peer in self.peers:
            if not peer.gone and peer.saves and self.world.choose(2):
                self.world.late += peer.saves
        self.peers, self._network = [], []
        self._flying.clear()

    def _run(self, job: Job, layout: Layout, store: Store, start: Start, on_report: OnReport) -> None:
        self._layout, told = layout, False
        for peer, spec in zip(self.peers, layout.stages, strict=True):
            own = StageStore(store.root, self.world, peer)
            data = job.splits.fingerprint
            setup = WorkerSetup(
                spec, layout.plan, layout.window, job.config, own, start, data=data, leaves_early=layout.leaves_early
            )
            try:
                parts = Parts(make_own_stage, _feed, self._stream, partial(HeldSaver, peer.saves))
                peer.worker = Worker(setup, parts, peer)
            except UserError as error:
                raise RunFailed(f"a stage could not begin: {error}") from error
        while not all(peer.told for peer in self.peers):
            self.world.moment()
            if self._interrupted and not told:
                told = True
                self.peers[0].worker.interrupt()
            actions = [action for peer in self.peers for action in peer.actions()]
            actions += [partial(self._deliver, message) for message in self._arriving()]
            actions += [self.world.write_late] if self.world.late else []
            if any(peer.gone or peer.silent or peer.error or peer.reported for peer in self.peers):
                actions.append(partial(self._poll, on_report))
            assert actions, "nothing can go on"
            action = actions[self.world.choose(len(actions))]
            action()

    def _stream(self, plan: Plan, step: int, seconds: float, _: Callable[[], float]) -> ItemStream:
        return HeldStream(plan, step, seconds, lambda: float(self.world.moments))

    def _poll(self, on_report: OnReport) -> None:
        """Ask all stages at once, as the driver does, and hear them one by one; the first that fails ends the run."""
        first = self.world.choose(len(self.peers))
        asked = [(p, p.worker.drain() if not (p.gone or p.silent) else []) for p in self.peers]
        for peer, reports in asked[first:] + asked[:first]:
            if peer.gone:
                raise StageLost(f"stage {peer.index} failed: the actor died")
            if peer.silent:
                raise StageLost(f"stage {peer.index} did not answer")
            if peer.error:
                raise peer.error
            peer.reported, peer.told = False, peer.finished
            for report in reports:
                on_report(report)

    # The network

    def post(self, sender: int, receiver: int, deliver: Callable[[Peer], None]) -> None:
        self._network.append(Message(sender, receiver, deliver))

    def lose(self, gone: int) -> None:
        """Lose what goes to a dead stage, and perhaps what comes from it."""
        self.peers[gone].outbox.clear()
        self._network = [
            m for m in self._network if m.receiver != gone and not (m.sender == gone and self.world.choose(2))
        ]

    def _arriving(self) -> list[Message]:
        """Return what may arrive next: at the first stage in the order of sending, which Ray keeps; at others in any
        order."""
        back = [message for message in self._network if message.receiver == 0]
        others = [message for message in self._network if message.receiver]
        return [message for message in [*back[:1], *others] if not self._deaf(message)]

    def _deaf(self, message: Message) -> bool:
        receiver = self.peers[message.receiver]
        return receiver.gone or receiver.silent

    def _deliver(self, message: Message) -> None:
        self._network.remove(message)
        message.deliver(self.peers[message.receiver])

    def worked(self, peer: Peer, item: Item) -> None:
        """Check the window: no more minibatches are between source and head, but for a message that goes alone."""
        if peer.index == 0:
            self._flying.append(item)
            minibatches = sum(flying.count for flying in self._flying if isinstance(flying, Train))
            assert minibatches <= self._layout.window or len(self._flying) == 1
        if peer.index == len(self.peers) - 1:
            assert self._flying.popleft() == item

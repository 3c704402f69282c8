"""A run in simulated time: who waits for whom when stages, messages and hosts take what they take.

    source ─may_send?─► stage 0 ─publisher─► wire ─inbox─► stage 1 ─ ... ─► last stage ─► window, predictions ─► source

The rules are the engine's own code: the plan's items and weights, the window (Flow), the inbox that puts messages back
in order and completes them, and how far a stage may run ahead of its publisher. Simulated is only what takes time:
layers, processors that stages of a host share, copies into the object store, and the network. As in a run, a result
leaves before the last update of its stage where the load says so, and replicas of a stage work each message together.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ffpipe.pipeline.inbox import Inbox
from ffpipe.pipeline.packet import Packet
from ffpipe.pipeline.publisher import PUBLISH_AHEAD
from ffpipe.pipeline.schedule import Item, Train
from ffpipe.pipeline.window import Flow
from ffpipe.planning.simulated_host import Clock, Host, Then, by_each


@dataclass(frozen=True)
class LinkCosts:
    """Costs of messages.

    item, call, copy, answer: as of MessageCosts (message_costs.py); copy is the rate out of the network too.
    link: bytes a second of a host's network, in each direction. latency: seconds from host to host. idle: the
    share of a processor that a process takes beside all this.
    """

    item: float
    call: float
    copy: float
    link: float
    latency: float
    answer: float = 0.0
    idle: float = 0.0


@dataclass(frozen=True)
class StageLoad:
    """Work of one stage, by item.

    seconds: of its blocks, in each replica. parts: bytes to each stage that gets something of it. senders: stages whose
    packets make its messages complete. apart: it has processors of its own, whatever others have. after: of these
    seconds, those after its result has left. replicas: processes that share the work of a message.
    """

    seconds: Callable[[Item], float]
    parts: Callable[[Item], Mapping[int, int]]
    senders: tuple[int, ...]
    apart: bool = False
    after: Callable[[Item], float] = lambda _: 0.0
    replicas: int = 1


@dataclass(frozen=True)
class HostLayout:
    """Hosts of the stages.

    hosts: of each stage. cores: processors of a host, which its stages and messages share; layers take them too where
    `computes`, and have processors of their own (GPUs) where not. reads: whether stages read what they get.
    """

    hosts: tuple[int, ...]
    cores: float
    computes: bool
    reads: bool = True


@dataclass
class Timing:
    """Outcome of a simulation, in seconds and bytes.

    seconds: of the whole. linked: bytes that left each host. processors: seconds of work there, by how many work at
    once. fed: when the source began its last item. most: items in flight at most. begun: when the last
    stage began its first item. done: when it was through with each.
    """

    seconds: float = 0.0
    linked: dict[int, int] = field(default_factory=dict)
    processors: dict[int, float] = field(default_factory=dict)
    fed: float = 0.0
    most: int = 0
    begun: float = 0.0
    done: list[tuple[Item, float]] = field(default_factory=list)

    def steady_seconds(self) -> float:
        """Return a minibatch's seconds in the full pipeline: after the first third, before the source runs dry; in a
        run that is too short for that, of all of it."""
        trained = [(item, at) for item, at in self.done if isinstance(item, Train)]
        if len(trained) == 1:
            return self.seconds / trained[0][0].count
        full = [each for each in trained[len(trained) // 3 :] if each[1] <= self.fed]
        full = full if len(full) > self.most else trained
        # By whole windows: where one is shorter than the pipeline, items come out in a burst, then none for a time.
        between = (len(full) - 1) // self.most * self.most or len(full) - 1
        return (full[-1][1] - full[-1 - between][1]) / sum(item.count for item, _ in full[-between:])

    def last_seconds(self) -> float:
        """Return a minibatch's seconds at the last stage, from the beginning of its first to the end of its last: what
        a run can measure (scripts/set_time.py)."""
        return (self.done[-1][1] - self.begun) / sum(item.count for item, _ in self.done if isinstance(item, Train))


def _wake(waiting: list[Then]) -> None:
    """Let a process go on that waits until something has changed, if it does."""
    if waiting:
        waiting.pop()()


class _Stage:
    """One stage, its publisher and its inbox."""

    def __init__(self, index: int, load: StageLoad, host: Host) -> None:
        self.index, self.load, self.host = index, load, host
        self.inbox = Inbox(load.senders)
        self.to_read: dict[int, int] = {}  # bytes of messages that have come, by their number
        self.waiting: deque[tuple[int, Item]] = deque()  # for the publisher
        self.worker, self.publisher = list[Then](), list[Then]()  # what they do next, while they wait


# The steps of something that takes time: it goes on when what it yielded calls back.
Process = Iterator[Callable[[Then], None]]


def _start(process: Process) -> None:
    def go_on() -> None:
        if (pause := next(process, None)) is not None:
            pause(go_on)

    go_on()


class Simulation:
    """A run of these items. weight: of an item in the window."""

    def __init__(
        self,
        items: Iterable[Item],
        weight: Callable[[Item], int],
        window: int,
        loads: Sequence[StageLoad],
        links: LinkCosts,
        host_layout: HostLayout,
    ) -> None:
        self._clock = Clock()
        self._items, self._weight, self._flow = deque(items), weight, Flow(window)
        self._links, self._host_layout = links, host_layout
        processes = Counter[int]()
        for host, load in zip(host_layout.hosts, loads, strict=True):
            processes[host] += load.replicas
        self._hosts = {host: Host(self._clock, self._left(count)) for host, count in processes.items()}
        self._stages = [_Stage(i, load, self._hosts[host_layout.hosts[i]]) for i, load in enumerate(loads)]
        self._timing, self._flying = Timing(linked=dict.fromkeys(self._hosts, 0)), 0

    def run(self) -> Timing:
        """Work the items to the end."""
        for stage in self._stages:
            _start(self._work(stage))
            _start(self._publish(stage))
        self._clock.run()
        assert not self._items, "the simulated run came to a stop"
        self._timing.processors = {number: host.processors.busy for number, host in self._hosts.items()}
        return self._timing

    def _left(self, processes: int) -> float:
        """Return the processors of a host that so many processes leave to work: where all are busy, what these take
        beside it has its turn like the work."""
        cores = self._host_layout.cores
        return cores * cores / (cores + processes * self._links.idle)

    def _next_item(self, stage: _Stage) -> Item | None:
        """Return the item that a stage may begin now, if there is one."""
        # The stage before sends a part of every message, whoever else does.
        if stage.index:
            return stage.inbox.take()[stage.index - 1].item if stage.inbox.ready else None
        if not self._items or not self._flow.may_send(self._weight(self._items[0])):
            return None
        item = self._items.popleft()
        self._flow.sent(self._weight(item))
        self._timing.fed = self._clock.now
        self._flying += 1
        self._timing.most = max(self._timing.most, self._flying)
        return item

    def _work(self, stage: _Stage) -> Process:
        """Simulate a stage: take an item, compute, and hand what leaves to the publisher as soon as that has room."""
        load, processors, last = stage.load, stage.host.processors, stage is self._stages[-1]
        replicas = partial(by_each, processors, load.replicas)
        compute = replicas if self._host_layout.computes and not load.apart else self._clock.after
        for sequence in itertools.count():
            while (item := self._next_item(stage)) is None:
                yield stage.worker.append
            if last and not sequence:
                self._timing.begun = self._clock.now
            if load.replicas > 1 and not stage.index:
                # Its first replica, which chooses the items, calls one after the other of those that wait for them.
                yield partial(processors.do, (load.replicas - 1) * self._links.call)
                yield partial(by_each, processors, load.replicas - 1, self._links.call)
            reading = self._host_layout.reads * stage.to_read.pop(sequence, 0) / self._links.copy
            yield partial(replicas, self._links.item + reading / load.replicas)
            after = load.after(item)
            yield partial(compute, load.seconds(item) - after)
            if not last:
                # Looked at again each time, since messages that come wake the stage too.
                while len(stage.waiting) == PUBLISH_AHEAD:
                    yield stage.worker.append
                stage.waiting.append((sequence, item))
                _wake(stage.publisher)
            if after:
                yield partial(compute, after)
            self._timing.seconds = self._clock.now
            if last:
                self._timing.done.append((item, self._clock.now))
                self._return(stage)

    def _return(self, last: _Stage) -> None:
        """Open the window again, with predictions back."""
        first = self._stages[0]

        def back() -> None:
            self._flow.done()
            self._flying -= 1
            _wake(first.worker)

        if first is last:
            back()
        else:
            # Predictions are few bytes beside rows.
            _start(self._carry(last, first, 0, back, (1, 1)))

    def _publish(self, stage: _Stage) -> Process:
        """Simulate the publisher of a stage: put arrays into the object store and call the stages that get them."""
        while True:
            while not stage.waiting:
                yield stage.publisher.append
            sequence, item = stage.waiting.popleft()
            _wake(stage.worker)
            # A packet to every receiver of the stage, though there may be nothing in it; the next one's goes first.
            for receiver, size in sorted(stage.load.parts(item).items()):
                other, senders = self._stages[receiver], stage.load.replicas
                # Numbers of replicas are powers of 2: each of the fewer has packets from or for as many of the others.
                packets = max(senders, other.load.replicas)
                sending = packets // senders * self._links.call + size / senders / self._links.copy
                yield partial(by_each, stage.host.processors, senders, sending)
                arrived = partial(self._arrived, other, stage, sequence, item, size)
                takers = other.load.replicas
                _start(self._carry(stage, other, size, arrived, (takers, packets // takers)))

    def _arrived(self, stage: _Stage, sender: _Stage, sequence: int, item: Item, size: int) -> None:
        stage.inbox.put(sequence, sender.index, Packet(item))
        stage.to_read[sequence] = stage.to_read.get(sequence, 0) + size
        _wake(stage.worker)

    def _carry(self, sender: _Stage, receiver: _Stage, size: int, then: Then, taken_by: tuple[int, int]) -> Process:
        """Simulate a message: it goes over the network where the receiver is elsewhere, and is taken in by it.

        taken_by: the replicas there, and the packets that each of them gets.
        """
        takers, packets = taken_by
        taken = packets * self._links.call
        if sender.host is not receiver.host:
            self._timing.linked[self._host_layout.hosts[sender.index]] += size
            taken += size / takers / self._links.copy
            seconds = size / self._links.link
            # Bytes come in while others still go out: the link's time passes once, unless others have either end.
            begin = max(self._clock.now, sender.host.out_free)
            sender.host.out_free = begin + seconds
            yield partial(self._clock.after, begin - self._clock.now)
            receiver.host.into_free = max(self._clock.now, receiver.host.into_free) + seconds
            yield partial(self._clock.after, receiver.host.into_free - self._clock.now + self._links.latency)
        yield partial(by_each, receiver.host.processors, takers, taken)
        then()

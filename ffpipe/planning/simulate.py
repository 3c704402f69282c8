"""A run in simulated time: who waits for whom when stages, messages and hosts take what they take.

    source ─may_send?─► stage 0 ─publisher─► wire ─inbox─► stage 1 ─ ... ─► last stage ─► window, predictions ─► source

The rules are the engine's own code: the plan's items and weights, the window (Flow), the inbox that puts messages back
in order and completes them, and how far a stage may run ahead of its publisher. Simulated is only what takes time:
layers, processors that stages of a host share, copies into the object store, and the network.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ffpipe.pipeline.inbox import Inbox
from ffpipe.pipeline.packet import Packet
from ffpipe.pipeline.publisher import PUBLISH_AHEAD
from ffpipe.pipeline.schedule import Flow, Item, Train

Then = Callable[[], None]


@dataclass(frozen=True)
class Wires:
    """What messages take.

    item: seconds of a processor for what a stage does with a message beside its layers. call: for sending one, and as
    much again for taking it in. copy: bytes a second into the object store, and as many out of it for the stage that
    reads them, and out of the network. link: bytes a second of a host's network, in each direction. latency: seconds
    from host to host.
    """

    item: float
    call: float
    copy: float
    link: float
    latency: float


@dataclass(frozen=True)
class Load:
    """What one stage has to do, by item. seconds: of its blocks. parts: bytes to each stage that gets something of it.
    senders: stages whose packets make its messages complete."""

    seconds: Callable[[Item], float]
    parts: Callable[[Item], Mapping[int, int]]
    senders: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """Where stages are. hosts: of each. cores: processors of a host, which its stages and messages share; layers take
    them too where `computes`, and have processors of their own (GPUs) where not. reads: whether stages read what they
    get."""

    hosts: tuple[int, ...]
    cores: float
    computes: bool
    reads: bool = True


@dataclass
class Timing:
    """What came of it, in seconds and bytes.

    busy, began, ended: of each stage's work on layers. linked: bytes that left each host. processors: seconds that were
    worked there. fed: when the source began its last item. done: when the last stage was through with each.
    """

    busy: list[float]
    began: list[float]
    ended: list[float]
    linked: dict[int, int] = field(default_factory=dict)
    processors: dict[int, float] = field(default_factory=dict)
    fed: float = 0.0
    done: list[tuple[Item, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return max(self.ended)

    @property
    def last_seconds(self) -> float:
        """From the begin of the last stage's first work to the end of its last."""
        return self.ended[-1] - self.began[-1]

    def steady_seconds(self) -> float:
        """A minibatch takes when the pipeline is full: after the first third, before the source has no more."""
        trained = [(item, at) for item, at in self.done if isinstance(item, Train)]
        first = len(trained) // 3
        full = [each for each in trained[first:] if each[1] <= self.fed]
        full = full if len(full) > 1 else trained[first:]
        if len(full) == 1:
            return self.seconds / sum(item.count for item, _ in trained)
        return (full[-1][1] - full[0][1]) / sum(item.count for item, _ in full[1:])


def simulate(
    items: Sequence[Item], weight: Callable[[Item], int], window: int, loads: Sequence[Load], wires: Wires, site: Site
) -> Timing:
    """Work these items to the end. weight: of an item in the window."""
    return _Simulation(items, weight, window, loads, wires, site).run()


class _Clock:
    """Events in the order of their time; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, then: Then) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), then))

    def run(self) -> None:
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


class _Shared:
    """Processors, shared evenly by all that want them at a moment: n jobs run at min(1, capacity / n).

    Time of its own passes at that rate, so that jobs end in the order of begin + work and one heap is enough.
    """

    def __init__(self, clock: _Clock, capacity: float) -> None:
        self._clock, self._capacity = clock, capacity
        self._jobs: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()
        self._own, self._at, self._version = 0.0, 0.0, 0
        self.worked = 0.0

    def do(self, work: float, then: Then) -> None:
        """Call `then` when so many seconds of work are done."""
        self._advance()
        self.worked += work
        heapq.heappush(self._jobs, (self._own + work, next(self._numbers), then))
        self._expect()

    def _rate(self) -> float:
        return min(1.0, self._capacity / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        self._own += (self._clock.now - self._at) * self._rate()
        self._at = self._clock.now

    def _expect(self) -> None:
        """The end of the job that ends next, unless another comes meanwhile."""
        self._version += 1
        if self._jobs:
            version = self._version
            self._clock.after((self._jobs[0][0] - self._own) / self._rate(), lambda: self._end(version))

    def _end(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        end, _, then = heapq.heappop(self._jobs)
        self._own = end
        self._expect()
        then()


class _Host:
    """Its processors, and when its network will be free in each direction: arrays go one after the other."""

    def __init__(self, clock: _Clock, cores: float) -> None:
        self.processors = _Shared(clock, cores)
        self.out_free = self.into_free = 0.0


class _Stage:
    """One stage, its publisher and its inbox."""

    def __init__(self, index: int, load: Load, host: _Host) -> None:
        self.index, self.load, self.host = index, load, host
        self.inbox = Inbox(load.senders)
        self.working = self.sending = False
        self.waiting: deque[tuple[int, Item]] = deque()  # for the publisher
        self.held: tuple[int, Item] | None = None  # what the stage itself waits to hand to it
        self.sequence = 0
        self.to_read: dict[int, int] = {}  # bytes of messages that have come, by their number


class _Simulation:
    def __init__(
        self,
        items: Sequence[Item],
        weight: Callable[[Item], int],
        window: int,
        loads: Sequence[Load],
        wires: Wires,
        site: Site,
    ) -> None:
        self._clock = _Clock()
        self._items, self._weight, self._flow = deque(items), weight, Flow(window)
        self._wires, self._site = wires, site
        self._hosts = {host: _Host(self._clock, site.cores) for host in site.hosts}
        self._stages = [_Stage(i, load, self._hosts[site.hosts[i]]) for i, load in enumerate(loads)]
        count = len(loads)
        self._timing = Timing([0.0] * count, [-1.0] * count, [0.0] * count, dict.fromkeys(self._hosts, 0))

    def run(self) -> Timing:
        self._wake(self._stages[0])
        self._clock.run()
        assert not self._items, "the simulated run came to a stop"
        self._timing.processors = {number: host.processors.worked for number, host in self._hosts.items()}
        return self._timing

    def _wake(self, stage: _Stage) -> None:
        """Begin the stage's next item, if it may."""
        if stage.working or stage.held:
            return
        if stage.index == 0:
            if not self._items or not self._flow.may_send(self._weight(self._items[0])):
                return
            item = self._items.popleft()
            self._flow.sent(self._weight(item))
            self._timing.fed = self._clock.now
        elif stage.inbox.ready:
            item = stage.inbox.take()[stage.index - 1].item
        else:
            return
        stage.working = True
        reading = self._site.reads * stage.to_read.pop(stage.sequence, 0) / self._wires.copy
        stage.host.processors.do(self._wires.item + reading, lambda: self._compute(stage, item))

    def _compute(self, stage: _Stage, item: Item) -> None:
        seconds, now = stage.load.seconds(item), self._clock.now
        if isinstance(item, Train) and self._timing.began[stage.index] < 0:
            self._timing.began[stage.index] = now
        if self._site.computes:
            stage.host.processors.do(seconds, lambda: self._computed(stage, item, now))
        else:
            self._clock.after(seconds, lambda: self._computed(stage, item, now))

    def _computed(self, stage: _Stage, item: Item, begun: float) -> None:
        self._timing.busy[stage.index] += self._clock.now - begun
        self._timing.ended[stage.index] = self._clock.now
        stage.working = False
        message = (stage.sequence, item)
        stage.sequence += 1
        if stage.index == len(self._stages) - 1:
            self._timing.done.append((item, self._clock.now))
            self._return(stage)
        else:
            stage.held = message
            self._publish(stage)
        self._wake(stage)

    def _return(self, last: _Stage) -> None:
        """The window opens again, and predictions are back."""
        first = self._stages[0]

        def back() -> None:
            self._flow.done()
            self._wake(first)

        if first is last:
            back()
        else:
            self._carry(last, first, 0, back)

    def _publish(self, stage: _Stage) -> None:
        """Hand to the publisher what it has room for, and to the wire what it is free for."""
        if stage.held and len(stage.waiting) < PUBLISH_AHEAD:
            stage.waiting.append(stage.held)
            stage.held = None
        if stage.sending or not stage.waiting:
            return
        sequence, item = stage.waiting.popleft()
        stage.sending = True
        # A packet to every receiver of the stage, though there may be nothing in it; the next one's goes first.
        parts = deque(sorted(stage.load.parts(item).items()))

        def next_part() -> None:
            if parts:
                receiver, size = parts.popleft()
                self._send(stage, receiver, sequence, item, size, next_part)
                return
            stage.sending = False
            self._publish(stage)
            self._wake(stage)

        next_part()
        self._publish(stage)

    def _send(self, stage: _Stage, to: int, sequence: int, item: Item, size: int, then: Then) -> None:
        """Put an array into the object store and call the other stage with it; `then`, when the publisher is free."""

        def arrived() -> None:
            other = self._stages[to]
            other.inbox.put(sequence, stage.index, Packet(item))
            other.to_read[sequence] = other.to_read.get(sequence, 0) + size
            self._wake(other)

        def called() -> None:
            then()
            self._carry(stage, self._stages[to], size, arrived)

        stage.host.processors.do(self._wires.call + size / self._wires.copy, called)

    def _carry(self, sender: _Stage, receiver: _Stage, size: int, then: Then) -> None:
        """Over the network where the other is elsewhere, and into the receiver's hands."""
        taken = self._wires.call

        def received() -> None:
            receiver.host.processors.do(taken, then)

        if sender.host is receiver.host:
            received()
            return
        self._timing.linked[self._site.hosts[sender.index]] += size
        taken += size / self._wires.copy
        seconds = size / self._wires.link

        def leaves() -> None:
            receiver.host.into_free = max(self._clock.now, receiver.host.into_free) + seconds
            self._clock.after(receiver.host.into_free - self._clock.now + self._wires.latency, received)

        begin = max(self._clock.now, sender.host.out_free)
        sender.host.out_free = begin + seconds
        self._clock.after(begin - self._clock.now, leaves)

"""Simulated time, and hosts in it: processors that jobs share, and a network. Stages and messages are elsewhere."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from functools import partial

Then = Callable[[], None]


class Clock:
    """Events in the order of their time; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, then: Then) -> None:
        """Call `then` so many seconds from now."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), then))

    def run(self) -> None:
        """Call all that is due, one event after the other, until nothing is left."""
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Processors:
    """Processors of a host, shared evenly by all that want them at a moment: n jobs run at min(1, capacity / n).

    Time of its own passes at that rate, so that jobs end in the order of begin + work and one heap is enough.
    """

    def __init__(self, clock: Clock, capacity: float) -> None:
        self._clock, self._capacity = clock, capacity
        self._jobs: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()
        self._own, self._at, self._version = 0.0, 0.0, 0
        self.busy = 0.0

    def do(self, work: float, then: Then) -> None:
        """Call `then` when so many seconds of work are done."""
        self._advance()
        self.busy += work / self._capacity
        heapq.heappush(self._jobs, (self._own + work, next(self._numbers), then))
        self._expect()

    def _rate(self) -> float:
        return min(1.0, self._capacity / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        self._own += (self._clock.now - self._at) * self._rate()
        self._at = self._clock.now

    def _expect(self) -> None:
        """Expect the end of the job that ends next, unless another comes meanwhile."""
        self._version += 1
        if self._jobs:
            self._clock.after((self._jobs[0][0] - self._own) / self._rate(), partial(self._end, self._version))

    def _end(self, version: int) -> None:
        # A job has come or gone since, which moves all ends; an event of the clock cannot be taken back.
        if version != self._version:
            return
        self._advance()
        # To the bit: rounding may have gone past it, and a job with the same end would be expected in the past.
        self._own, _, then = heapq.heappop(self._jobs)
        self._expect()
        then()


def by_each(processors: Processors, count: int, work: float, then: Then) -> None:
    """Have so many processes do so many seconds of work each; call `then` when the last is through."""
    left = count

    def through() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for _ in range(count):
        processors.do(work, through)


class Host:
    """Its processors, and when its network will be free in each direction: arrays go one after the other."""

    def __init__(self, clock: Clock, cores: float) -> None:
        self.processors = Processors(clock, cores)
        self.out_free = self.into_free = 0.0

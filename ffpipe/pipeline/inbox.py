"""The inbox of a stage: it puts messages back in order, and hands them out when they are complete.

A stage gets, for one item, a packet from the stage before, and perhaps others straight from earlier ones; whatever
the order of arrival, `take` returns the packets of item 0, 1, 2, ... in turn.
"""

from __future__ import annotations

from collections.abc import Collection

from ffpipe.pipeline.arrivals import Arrivals
from ffpipe.pipeline.packet import Packet


class Inbox(Arrivals):
    """Messages by sequence number. senders: numbers of the workers that send a part of every message."""

    def __init__(self, senders: Collection[int]) -> None:
        super().__init__()
        self._senders = frozenset(senders)
        self._parts: dict[int, dict[int, Packet]] = {}
        self._next = 0

    def put(self, sequence: int, sender: int, packet: Packet) -> None:
        """Take in a part. Raises ValueError for one that was there already or that nobody waits for."""
        with self._changed:
            arrived = self._parts.get(sequence, {})
            # Taken in, a second copy would stay here for good or take the place of the first.
            if sequence < self._next or sender not in self._senders or sender in arrived:
                raise ValueError(f"message {sequence} from worker {sender} is unexpected; next is {self._next}")
            self._parts[sequence] = {**arrived, sender: packet}
            self._changed.notify_all()

    @property
    def ready(self) -> bool:
        """True where the next message is complete."""
        return len(self._parts.get(self._next, ())) == len(self._senders)

    def take(self) -> dict[int, Packet]:
        """Return the next message, by sender; waits for it. Raises what `fail` was given."""
        with self._changed:
            # There is no deadline: where a message was lost, the driver sees that all stages wait (`Worker.waited`).
            self._wait(lambda: self.ready)
            self._next += 1
            return self._parts.pop(self._next - 1)

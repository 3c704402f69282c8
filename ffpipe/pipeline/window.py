"""The distance that the source may run ahead of the last stage, and the minibatches that travel together: numbers."""

from __future__ import annotations

import math
from collections import deque


class Flow:
    """The distance that the source may run ahead of the last stage: at most `window` minibatches' worth of messages.

    This one rule bounds memory and serves hard negatives too: with a window of at most `negative_lag`
    (`Training.most_in_flight`, to which config/rules.py and planning/layout.py hold it), the predictions that a
    minibatch needs have come back whenever it may leave. A message that is larger than the window goes alone.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._flying: deque[int] = deque()
        self._load = 0

    def may_send(self, weight: int) -> bool:
        """Return whether a message worth `weight` minibatches may leave now."""
        # An empty window lets anything leave: a chunk or an evaluation that is larger would wait for ever.
        return not self._flying or self._load + weight <= self.window

    def sent(self, weight: int) -> None:
        # Weights are kept here since the way back says only that the oldest item is through.
        self._flying.append(weight)
        self._load += weight

    def done(self) -> None:
        """Note that the last stage is through with the oldest message in flight."""
        self._load -= self._flying.popleft()


# The share of the work in a message that sending it may cost beside its bytes; and the most minibatches that one should
# hold, since filling and draining the pipeline takes a chunk a stage.
MESSAGE_SHARE = 0.02
LARGEST_CHUNK = 8
# The most bytes of a message of several minibatches: those of a convolution's outputs are large enough one by one, and
# a process holds a message's worth of what each of two blocks makes.
CHUNK_BYTES = 32 << 20
# The bytes of a message that is timed for it: few, as copying more costs the same in however many messages, but too
# many to travel within a call.
TIMED_BYTES = 1 << 18


def largest_chunk(minibatch_bytes: int) -> int:
    """Return the most minibatches in a message where none are given. minibatch_bytes: of the largest rows of one."""
    return max(1, min(LARGEST_CHUNK, CHUNK_BYTES // max(1, minibatch_bytes)))


def choose_window(stages: int, chunk: int, most: int | None, minibatch_bytes: int, window_bytes: int) -> int:
    """Choose the minibatches in flight where none are given: a chunk for each stage and four more, within lag and
    bytes.

    Four are enough that a late message holds nobody up; what is beyond only takes memory.

    chunk: the one wanted. most: `Training.most_in_flight`.
    """
    room = max(1, window_bytes // max(1, minibatch_bytes))
    wanted = min((stages + 4) * chunk, room)
    # A chunk that was asked for need not keep to `window_bytes`; that it keeps to `most` is checked in rules.py.
    return max(1, wanted if most is None else min(wanted, most), chunk)


def choose_chunk(
    stages: int, room: int | None, step_seconds: float, message_seconds: float, largest: int = LARGEST_CHUNK
) -> int:
    """Choose the minibatches in a message where none are given.

    Enough that a message costs at most MESSAGE_SHARE of the work in it, but so few that the room in the
    window (None: as much as one likes) holds one for each stage, one on its way, and one coming back.
    step_seconds: the slowest stage's, for a minibatch. message_seconds: of a message of TIMED_BYTES, end to end.
    largest: that there may be.
    """
    affordable = MESSAGE_SHARE * step_seconds  # 0 where nothing was measured, by which nothing can be divided
    enough = largest if message_seconds >= largest * affordable else math.ceil(message_seconds / affordable)
    fits = largest if room is None else room // (stages + 2) if stages > 1 else room
    return max(1, min(enough, fits, largest))

"""The publisher: sends a stage's results from a thread of its own, so that the stage computes while they travel."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.schedule import Item
from ffpipe.telemetry.spans import Spans

# One message may wait to be published while the next is computed; more would only hold memory.
PUBLISH_AHEAD = 1
# Results that are there at once, each in memory of its own: those that wait, one on its way, one being made.
OUTPUTS = PUBLISH_AHEAD + 2

# Takes the result of one item: its sequence number, the item, and what leaves with it.
Publish = Callable[[int, Item, Tensors | None], None]


class Publisher:
    """One thread, in which results go out in the order in which they came."""

    def __init__(self, send: Publish, spans: Spans, failed: Callable[[BaseException], object]) -> None:
        """failed: gets what went wrong with a message, at once and in the publisher's thread."""
        self._send = send
        self._failed = failed
        self._spans = spans
        self._queue: queue.Queue[tuple[int, Item, Tensors | None] | None] = queue.Queue(PUBLISH_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def publish(self, sequence: int, item: Item, tensors: Tensors | None) -> None:
        """Queue one message; waits while one is queued. Raises what went wrong with an earlier one."""
        if self._error is not None:
            raise self._error
        self._queue.put((sequence, item, tensors))

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
            sequence, item, tensors = message
            # After an error messages are taken all the same: the stage may be waiting to queue one.
            if self._error is None:
                try:
                    with self._spans.span("publish", label=str(item)):
                        self._send(sequence, item, tensors)
                except BaseException as error:  # handed to the stage's own thread, which raises it
                    self._error = error
                    self._failed(error)

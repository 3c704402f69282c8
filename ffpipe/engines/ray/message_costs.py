"""Costs of messages, measured on this machine: two actors send arrays to each other on a cluster of their own.

Counted are seconds of a processor in both processes, not of the clock: stages of a host share its processors.
"""

from __future__ import annotations

import time
from datetime import date
from typing import Any

import numpy as np
import ray

from ffpipe.engines.ray.actor import stored
from ffpipe.engines.ray.calls import within
from ffpipe.engines.ray.cluster import Cluster
from ffpipe.planning.message_costs import MessageCosts
from ffpipe.system.memory import unmap_large

SMALL, LARGE = 1_000, 8_000_000
MESSAGES = {SMALL: 400, LARGE: 40}
SECONDS = 120.0


class Probe:
    """One end of a link."""

    def take(self, array: Any) -> None:
        """Read an array as a stage does, which copies what it computes with."""
        array.copy()
        unmap_large(array)

    def send(self, other: Any, size: int, count: int) -> None:
        """Send so many arrays, and wait until all have been taken."""
        array = np.ones(size, dtype=np.uint8)
        ray.get([other.take.remote(stored(array)) for _ in range(count)])

    def answer_seconds(self, other: Any, count: int) -> float:
        """Return the median seconds until an answer to a small array is back."""
        array, seconds = np.ones(SMALL, dtype=np.uint8), []
        for _ in range(count):
            begun = time.perf_counter()
            ray.get(other.take.remote(array))
            seconds.append(time.perf_counter() - begun)
        return float(np.median(seconds))

    def processor_seconds(self) -> float:
        """Return the seconds of a processor that this process has taken, in all its threads."""
        return time.process_time()


def measure_message_costs(item_seconds: float) -> MessageCosts:
    """Measure them; it takes some ten seconds. item_seconds: what was measured of MessageCosts.item. Raises what
    `Cluster` raises, and ClusterLost where the actors do not answer."""
    cluster = Cluster()
    try:
        call, copy, answer = within(SECONDS, "for costs of messages", _measured)
    finally:
        cluster.close()
    origin = f"measured here on {date.today().isoformat()} with Ray {ray.__version__}"
    # The work of processors at both ends is counted as calls already.
    return MessageCosts(item=item_seconds, call=call, copy=copy, answer=max(answer - 2 * call, 1e-5), origin=origin)


def _measured() -> tuple[float, float, float]:
    """Return seconds of a call, bytes a second of a copy, and seconds until an answer is back."""
    make: Any = ray.remote(Probe)
    actors = [make.options(num_cpus=0, max_restarts=0).remote() for _ in range(2)]
    sender, receiver = actors
    spent = {}
    for size, count in MESSAGES.items():
        ray.get(sender.send.remote(receiver, size, max(2, count // 10)))  # imports, connections, the store's pages
        before = sum(ray.get([actor.processor_seconds.remote() for actor in actors]))
        ray.get(sender.send.remote(receiver, size, count))
        spent[size] = (sum(ray.get([actor.processor_seconds.remote() for actor in actors])) - before) / count
    answer = ray.get(sender.answer_seconds.remote(receiver, MESSAGES[SMALL] // 4))
    # An array is copied into the store at one end and out of it at the other.
    copies = max(spent[LARGE] - spent[SMALL], 1e-6) / 2
    return spent[SMALL] / 2, LARGE / copies, answer

"""The links of a worker to the other stages. A worker does not know whether Ray (`RayLinks`, engines/ray/actor.py) or
threads in a test carry them."""

from __future__ import annotations

from typing import Protocol

from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.packet import Arrays, Packet


class Links(Protocol):
    """Ways from one stage to others; none waits for an answer. Receivers have numbers among the replicas of all
    stages."""

    def to(self, receiver: int, sequence: int, packet: Packet) -> None:
        """Send a packet of message `sequence` to a later stage, or to another replica of the first."""

    def done(self, predictions: Predictions) -> None:
        """Tell the first replica of the first stage that the last stage is through with the oldest item in flight,
        and bring it the predictions that feeds make negatives of."""

    def to_replicas(self, number: int, name: str, sums: Arrays) -> None:
        """Send sums of round `number` to the other replicas of the stage."""

    def read(self, arrays: Arrays) -> None:
        """Note that arrays which came will not be read again."""

"""What a worker can say to the other stages. Who carries it, Ray or threads in a test, a worker does not know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ffpipe.pipeline.inbox import Part

Predictions = dict[int, NDArray[np.float32]]


class Links(Protocol):
    """Ways from one stage to others; none waits for an answer."""

    def to_next(self, sequence: int, part: Part) -> None:
        """A part of a message to the stage after."""

    def to_last(self, sequence: int, part: Part) -> None:
        """Features for the head, past the stages between."""

    def to_first(self, predictions: Predictions) -> None:
        """The last stage is through with the oldest item in flight."""

    def read(self, parts: Iterable[Part]) -> None:
        """The parts of a message will not be read again."""


class NoLinks:
    """For a single stage: nobody is there."""

    def to_next(self, sequence: int, part: Part) -> None:
        raise AssertionError("a single stage has no next one")

    def to_last(self, sequence: int, part: Part) -> None:
        raise AssertionError("a single stage is the last one")

    def to_first(self, predictions: Any) -> None:
        raise AssertionError("a single stage is the first one")

    def read(self, parts: Iterable[Part]) -> None:
        assert not list(parts)

"""Sums over the replicas of a stage: each sends its own to all others, and all add them up in the same order.

One round is one call of the reducer; rounds have the same names in the same order in all replicas, since these do the
same items. It does not know who carries the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ffpipe.learn.shards import fold
from ffpipe.pipeline.arrivals import Arrivals
from ffpipe.pipeline.packet import Arrays, to_arrays, to_tensors
from ffpipe.system.errors import RunFailed, reason

# Sends sums to the other replicas: the number of the round, its name, the sums.
Send = Callable[[int, str, Arrays], None]
# Done with the arrays of others.
Read = Callable[[Arrays], None]
# Entered while others are waited for.
Waiting = Callable[[], AbstractContextManager[None]]


class Reducer(Arrivals):
    """The sums of one replica with those of the others. `put` and `fail` may be called from any thread."""

    def __init__(
        self, replica: int, replicas: int, send: Send, read: Read = lambda arrays: None, waiting: Waiting = nullcontext
    ) -> None:
        super().__init__()
        self._replica, self._replicas = replica, replicas
        self._send, self._read, self._waiting = send, read, waiting
        self._round = 0
        self._arrived: dict[int, dict[int, tuple[str, Arrays]]] = {}

    def put(self, number: int, replica: int, name: str, arrays: Arrays) -> None:
        """Take the sums of another replica for a round."""
        with self._changed:
            self._arrived.setdefault(number, {})[replica] = (name, arrays)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Take what keeps the sums of others from coming."""
        why = f"{type(error).__name__}: {reason(error)}"
        failed = RunFailed(f"replica {self._replica} cannot get the sums of the others: {why}")
        failed.__cause__ = error
        super().fail(failed)

    def __call__(self, name: str, sums: list[Tensor]) -> list[Tensor]:
        """Return the sums over all replicas, on the devices of these. Raises ValueError where another replica is at
        something else, and RunFailed where sums cannot come any more."""
        number, self._round = self._round, self._round + 1
        self._send(number, name, to_arrays({str(place): each for place, each in enumerate(sums)}))
        with self._waiting(), self._changed:
            self._wait(lambda: len(self._arrived.get(number, ())) == self._replicas - 1)
            others = self._arrived.pop(number)
        # Else sums of different blocks would be added where they happen to have the same shapes.
        if unlike := {other for other, _ in others.values()} - {name}:
            raise ValueError(f"replica {self._replica} is at {name!r}, another one at {unlike.pop()!r}")
        tensors = {replica: _tensors(arrays, sums) for replica, (_, arrays) in others.items()} | {self._replica: sums}
        # Not in place, as within a process: what came from others is read-only.
        whole = fold(tensors[replica] for replica in range(self._replicas))
        del tensors
        for _, arrays in others.values():
            self._read(arrays)
        return whole


def _tensors(arrays: Arrays, like: list[Tensor]) -> list[Tensor]:
    """Return the sums of another replica, each where this one's is, and with its dimensions in the same order."""
    found = [to_tensors({"": arrays[str(place)]}, own.device)[""] for place, own in enumerate(like)]
    # Else gradients would not lie in memory as their weights do, by which fused steps go.
    return [
        each if each.stride() == own.stride() else torch.empty_like(own).copy_(each)
        for each, own in zip(found, like, strict=True)
    ]

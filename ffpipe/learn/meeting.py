"""Forward passes of several shards that meet where something is of the whole minibatch.

    pass 0 ──► meets ─┐             ┌► goes on ──► ends
    pass 1 ──► meets ─┤             ├► goes on ──► ends
    pass 2 ──► meets ─┴─ join all ──┴► goes on ──► ends

Each pass has a thread of its own, of which one runs at a time, in turn: what a pass draws from the generators
that torch, NumPy and Python share and what it computes depends on no other. Passes meet at the same places in the same
order, or all end with an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from ffpipe.system.errors import UserError
from ffpipe.system.rng import process_state, set_process_state

T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W")


class Abandoned(Exception):
    """The end of a pass because another one has failed."""


class Meeting:
    """Passes that are run once, on one device. own: code of a user's may draw in them, by any generator."""

    def __init__(self, device: torch.device, *, own: bool = True) -> None:
        self._device, self._own = device, own
        self._count = 1
        self._turn = 0
        self._here = threading.local()
        self._values: list[Any] = []
        self._place = ""  # where those are that have met
        self._results: Sequence[Any] = ()
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()

    def run(self, passes: Sequence[Callable[[], T]]) -> list[T]:
        """Run the passes; returns what each returns, and raises what the first that fails does."""
        self._count = len(passes)
        if self._count == 1:
            return [passes[0]()]
        found: dict[int, T] = {}
        # torch has both by thread, and in a new one gradients are on.
        states = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())

        def work(place: int) -> None:
            self._here.place = place
            try:
                self._wait(place)
                with torch.inference_mode(states[1]), torch.set_grad_enabled(states[0]):
                    found[place] = passes[place]()
                    if self._values:
                        raise self._parted("its end")
            except BaseException as error:  # raised again below
                self._errors.append(error)
            # Also after an error: the others wait, and end when they see that there is one.
            self._hand_over(place)

        threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]  # those behind it are Abandoned
        return [found[place] for place in range(self._count)]

    def meet(self, where: str, value: V, join: Callable[[list[V]], Sequence[W]]) -> W:
        """Give what this pass has, wait for the others; returns this pass's of what `join` makes of all, in order.

        where: names the place, which is another one each time. Raises UserError where others are elsewhere or at their
        end.
        """
        if self._count == 1:
            return join([value])[0]
        place: int = self._here.place
        # Passes come in turn, so all before this one are here.
        if place and len(self._values) != place:
            self._place = "its end"
        if place and self._place != where:
            raise self._parted(where)
        self._place = where
        self._values.append(value)
        if place == self._count - 1:
            values, self._values = self._values, []
            self._results = join(values)
        drawing, of_process, on_device = torch.get_rng_state(), process_state() if self._own else None, None
        if self._device.type == "cuda":
            on_device = torch.cuda.get_rng_state(self._device)
        self._hand_over(place)
        self._wait(place)
        torch.set_rng_state(drawing)
        if of_process is not None:
            set_process_state(of_process)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, self._device)
        result: W = self._results[place]
        return result

    def _parted(self, where: str) -> UserError:
        return UserError(
            f"forward passes of shards of one minibatch part: one is at {self._place}, another at {where}: let forward "
            "take the same way whatever its rows are, or give --training.shards 1"
        )

    def _hand_over(self, place: int) -> None:
        with self._changed:
            self._turn = (place + 1) % self._count
            self._changed.notify_all()

    def _wait(self, place: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == place or self._errors)
        if self._errors:
            raise Abandoned


class Apart(Meeting):
    """The meeting of a pass that is tried by itself (shard_trial.py): it gets back what it gives."""

    def meet(self, where: str, value: Any, join: Callable[[list[Any]], Sequence[Any]]) -> Any:
        return value

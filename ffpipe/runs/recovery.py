"""The decision whether to go on after a failure: a state machine on plain data, without Ray, clocks or files."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["lost", "error"]
LONGEST_WAIT = 3600.0  # seconds


class Again(NamedTuple):
    """A decision to build the stages anew after `wait` seconds and to go on from the last whole snapshot."""

    wait: float


class GiveUp(NamedTuple):
    """A decision to end the run, and why nothing more is tried."""

    why: str


class Recovery:
    """The decision after each failure. A snapshot that was not there at the failure before is progress, and forgives.

    attempts: recoveries in a row from the same step. back_off: seconds before the first of them, doubled for each
    further one. A stage that was lost may be lost to chance; an error that the program raised itself is given
    one more chance only, since the same step would most likely raise it again.
    """

    def __init__(self, attempts: int, back_off: float) -> None:
        self._attempts, self._back_off = attempts, back_off
        self._step, self._failures, self._errors = -1, 0, 0

    def failed(self, kind: Kind, snapshot: int) -> Again | GiveUp:
        """Decide what to do after a failure. kind: what happened. snapshot: step of the last whole snapshot, 0 for
        none."""
        # An older one, too: that of the failure before was found damaged, and the run went on from further back.
        if snapshot != self._step:
            self._step, self._failures, self._errors = snapshot, 0, 0
        self._failures += 1
        self._errors += kind == "error"
        if self._errors > 1:
            return GiveUp(f"the program failed a second time after step {self._step}")
        if self._failures > self._attempts:
            tried = f"{self._attempts} recoveries in a row after step {self._step}"
            return GiveUp(f"{tried} came to nothing" if self._attempts else "execution.attempts is 0")
        return Again(min(self._back_off * 2.0 ** (self._failures - 1), LONGEST_WAIT))

"""Callbacks: code of the user's own that follows a run. It gets plain data, and changes no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffpipe.config.schema import Config
from ffpipe.telemetry.report import Evaluation, LayerRow, RecoveryNote


@dataclass(frozen=True)
class RunStart:
    """A run as it begins, or goes on.

    config: as the run keeps it. steps: of the whole run. first_step: of the snapshot that it goes on from; 0: none.
    blocks: the name of each block. stages: indices of the blocks of each stage. stop: ends the run at the next step at
    which it can go on, after a snapshot, as Ctrl-C does: `train` then raises `Interrupted`.
    """

    run_dir: Path
    config: Config
    steps: int
    steps_per_epoch: int
    first_step: int
    blocks: tuple[str, ...]
    stages: tuple[tuple[int, ...], ...]
    stop: Callable[[], None]


@dataclass(frozen=True)
class Speed:
    """The speed of a run. examples_per_second: of training, over its last seconds. busy: the share of its time since it
    began in which each stage computed, from 0 to 1."""

    step: int
    examples_per_second: float
    busy: tuple[float, ...]


class Callback:
    """A follower of a run: subclass it and write the methods that you want.

    They are called in the process that called `ffpipe.train`, one at a time, while stages go on; one that takes long
    holds up reports, and at last the run. An exception is reported once, and the run goes on; `sys.exit` and
    KeyboardInterrupt end it as `RunStart.stop` does.
    """

    def on_start(self, run: RunStart) -> None:
        """Hear that training begins, or goes on from a snapshot."""

    def on_row(self, row: LayerRow) -> None:
        """Hear that a block (or the read-out, layer -1) has ended a log interval: one row of metrics.parquet.

        Rows of a block come in the order of their steps. A recovery does not bring one twice; a run that is resumed
        brings those after its snapshot again.
        """

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Hear that a split has been tested; each step and split comes once, as rows do.

        A run that is resumed brings those of its snapshot's step that are not in past.json yet.
        """

    def on_speed(self, speed: Speed) -> None:
        """Hear that the last stage has ended a log interval."""

    def on_recovery(self, note: RecoveryNote) -> None:
        """Hear that something was lost, and that the run goes on from its newest snapshot."""

    def on_note(self, text: str) -> None:
        """Hear a line for a person: a warning or a recovery."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Hear that the run has ended, well or not: summary["status"] is "finished", "interrupted" or "failed"; the
        rest is what summary.json has."""


class Callbacks:
    """Several callbacks that are called in turn; where one raises, the others go on.

    complain: takes the name of a method that raised for the first time, and what it raised. end: takes SystemExit or
    KeyboardInterrupt, with which a callback wants the run to end.
    """

    def __init__(
        self,
        callbacks: Iterable[Callback],
        complain: Callable[[str, Exception], object],
        end: Callable[[BaseException], object],
    ) -> None:
        self._callbacks, self._complain, self._end = tuple(callbacks), complain, end
        self._failed: set[tuple[int, str]] = set()
        self._seen: dict[int | str, int] = {}  # the last step of each block and split

    def tell(self, method: str, event: object) -> None:
        """Call a method of each callback; rows and evaluations that come again after a recovery are left out."""
        if isinstance(event, (LayerRow, Evaluation)):
            series = event.layer if isinstance(event, LayerRow) else event.split
            if event.step <= self._seen.get(series, -1):
                return
            self._seen[series] = event.step
        wish: BaseException | None = None
        for index, callback in enumerate(self._callbacks):
            try:
                getattr(callback, method)(event)
            except (SystemExit, KeyboardInterrupt) as raised:
                wish = raised  # obeyed when the other callbacks have heard of the event
            except Exception as error:  # whatever a user's code raises
                if (index, method) not in self._failed:
                    self._failed.add((index, method))
                    self._complain(f"{type(callback).__name__}.{method}", error)
        if wish is not None:
            if method == "on_end":  # nothing is left to save
                raise wish
            self._end(wish)

"""A run folder read into plain data, whatever state the run is in.

It may be a stranger's, and the run may be at work: files are read up to a bound, and what cannot be read is a missing
part with its reason. Weights and data are network.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta

from ffpipe.config.schema import Config
from ffpipe.reports.parts import Shown, attempt
from ffpipe.runs import inspection
from ffpipe.runs.folder import RunFolder, open_run
from ffpipe.system.errors import UserError
from ffpipe.telemetry.report import READOUTS, Evaluation, History, LayerRow

# Longer ones, and longer lists below, are a stranger's: all of them would come to the page.
Word = Annotated[str, Meta(max_length=200)]
HEAD = -1
# Beyond this a number is as good as endless, and pictures have no room for it.
LARGEST = 1e30


@dataclass(frozen=True)
class Summary(inspection.Summary):
    """The part of summary.json that a report shows, beside what a look takes from it."""

    weights_sha256: Word | None = None
    time_shares: Annotated[list[Annotated[dict[Word, float], Meta(max_length=20)]], Meta(max_length=1000)] = field(
        default_factory=list
    )
    versions: Annotated[dict[Word, Word], Meta(max_length=20)] = field(default_factory=dict)


class Curve(NamedTuple):
    """Numbers of one series against steps, in their order."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        return self.values[-1]


class Record(NamedTuple):
    """A run folder without its weights. going: whether a process trains the run at the moment."""

    folder: RunFolder
    config: Config
    past: Shown[History]
    summary: Shown[Summary]
    going: bool

    @property
    def name(self) -> str:
        return self.folder.path.absolute().name or str(self.folder.path)

    @property
    def status(self) -> str:
        return inspection.state_of(self.going, self.summary.value, self.config)

    @property
    def history(self) -> History:
        """All that is written down of the run; nothing where that cannot be read."""
        return self.past.value or History()

    @property
    def evaluations(self) -> list[Evaluation]:
        return sorted(self.history.evaluations, key=lambda each: each.step)

    @property
    def tested(self) -> Evaluation | None:
        """The evaluation on the test split after the newest step; None where the run has gone on since its test."""
        step = self.step
        return next((each for each in self.evaluations[::-1] if (each.split, each.step) == ("test", step)), None)

    @property
    def test_errors(self) -> dict[str, float]:
        """The error of each read-out on the test split after the newest step."""
        return readouts(self.tested) if self.tested else {}

    @property
    def step(self) -> int:
        """The furthest step that is written down."""
        # A snapshot of an interrupted run may be further than the newest rows, which come when a log interval ends.
        saved = self.summary.value.steps if self.summary.value else 0
        return max([saved, *(row.step for row in self.history.rows), *(each.step for each in self.evaluations)])

    def curves(self, number: Callable[[LayerRow], float | None]) -> list[Curve]:
        """Make a series of one number of the rows for each block that has it; that of the linear read-out is last."""
        rows = sorted(self.history.rows, key=lambda row: (row.layer == HEAD, row.layer))
        return series((block_name(row.layer), row.step, number(row)) for row in rows)

    def errors(self, split: str) -> list[Curve]:
        """Make a series of errors on a split for each read-out."""
        found = [each for each in self.evaluations if each.split == split]
        return series((name, each.step, error) for each in found for name, error in readouts(each).items())


def series(points: Iterable[tuple[str, int, float | None]]) -> list[Curve]:
    """Make a series of each name that has values. points: name, step, value."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in points:
        if value is not None:
            found.setdefault(name, []).append((step, value))
    return [curve(name, each) for name, each in found.items()]


def curve(name: str, points: list[tuple[int, float]]) -> Curve:
    """Join points in the order of their steps; of several at one step the last counts."""
    # By the step alone: sorted by value too, the last of several would not stay the last.
    steps = dict(sorted(points, key=lambda point: point[0]))
    return Curve(name, tuple(steps), tuple(max(-LARGEST, min(LARGEST, value)) for value in steps.values()))


def readouts(evaluation: Evaluation) -> dict[str, float]:
    """Return the errors of the read-outs that ffpipe knows, by name: a stranger's file may have any others."""
    return {name: error for name, error in evaluation.readouts.items() if name in READOUTS}


def block_name(block: int) -> str:
    """Return the name of a block in pictures and tables."""
    return "head" if block == HEAD else f"block {block}"


def read_run(run: str | Path) -> Record:
    """Read a run folder. Raises UserError where it is not one."""
    folder, config = open_run(run)
    # Asked before its past and summary are read: a run that ended in between would seem broken off.
    going = inspection.is_running(folder.path)
    return Record(folder, config, attempt(lambda: _past(folder)), attempt(lambda: _summary(folder)), going)


def _past(folder: RunFolder) -> History:
    if not folder.past.exists():
        raise UserError("there is no past.json: nothing has been measured yet, or the file is lost")
    return folder.read_past()


def _summary(folder: RunFolder) -> Summary:
    try:
        return inspection.decoded(folder.summary, inspection.LARGEST_SUMMARY, Summary)
    except FileNotFoundError:
        raise UserError("there is no summary.json: it is written with the first snapshot") from None

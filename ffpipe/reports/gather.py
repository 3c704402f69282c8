"""A run folder read into plain data, whatever state the run is in.

It may be a stranger's, and the run may be at work: files are read up to a bound, and what cannot be read is a missing
part with its reason. Weights and data are network.py's.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ffpipe.config.schema import LARGEST_INTEGER, MOST_LAYERS, Config
from ffpipe.reports.parts import Part, attempt
from ffpipe.runs.folder import LARGEST_PAST, RunFolder, open_run
from ffpipe.system.errors import UserError
from ffpipe.system.files import read_whole
from ffpipe.telemetry.report import Evaluation, LayerRow, Past

Count = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
Amount = Annotated[float, Meta(ge=0)]
Word = Annotated[str, Meta(max_length=200)]
HEAD = -1


@dataclass(frozen=True)
class Summary:
    """What a report shows of summary.json, in which there may be anything."""

    status: Word = ""
    engine: Word = ""
    stage_layers: Annotated[list[Annotated[list[Count], Meta(max_length=MOST_LAYERS)]], Meta(max_length=1000)] = field(
        default_factory=list
    )
    chunk: Count = 0
    window: Count = 0
    steps: Count = 0
    epochs: Count = 0
    train_seconds: Amount = 0.0
    examples_per_second: Amount | None = None
    weights_sha256: Word | None = None
    peak_rss_bytes: Annotated[list[Count], Meta(max_length=MOST_LAYERS)] = field(default_factory=list)
    peak_device_bytes: Annotated[list[Count], Meta(max_length=MOST_LAYERS)] = field(default_factory=list)
    efficiency: float | None = None
    time_shares: Annotated[list[Annotated[dict[Word, float], Meta(max_length=20)]], Meta(max_length=1000)] = field(
        default_factory=list
    )
    written_at: Amount = 0.0
    versions: Annotated[dict[Word, Word], Meta(max_length=20)] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """Numbers of one series against steps, in their order."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        return self.values[-1]


@dataclass(frozen=True)
class Record:
    """What a run folder says without its weights. going: whether a process trains the run at the moment."""

    folder: RunFolder
    config: Config
    past: Part[Past]
    summary: Part[Summary]
    going: bool

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.path.absolute().name or str(self.folder.path)

    @property
    def status(self) -> str:
        """The state of the run, in words."""
        said = self.summary.value.status if self.summary.value else ""
        if self.going:
            return "still going"
        return said if said in ("finished", "interrupted", "failed") else "broken off"

    @property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations, in order of their steps."""
        return sorted(self.past.value.evaluations, key=lambda each: each.step) if self.past.value else []

    @property
    def tested(self) -> Evaluation | None:
        """The newest evaluation on the test split."""
        return next((each for each in reversed(self.evaluations) if each.split == "test"), None)

    @property
    def step(self) -> int:
        """The furthest step that is written down."""
        rows = self.past.value.rows if self.past.value else []
        return max([row.step for row in rows] + [each.step for each in self.evaluations], default=0)

    @property
    def blocks(self) -> list[int]:
        """The blocks that there are numbers of; HEAD is the linear read-out, and last."""
        found = {row.layer for row in self.past.value.rows} if self.past.value else set()
        return sorted(found, key=lambda block: (block == HEAD, block))

    def curves(self, number: Callable[[LayerRow], float | None]) -> list[Curve]:
        """A series of one number of the rows for each block that has it."""
        points: dict[int, list[tuple[int, float]]] = {block: [] for block in self.blocks}
        for row in self.past.value.rows if self.past.value else ():
            value = number(row)
            if value is not None:
                points[row.layer].append((row.step, value))
        return [curve(block_name(block), found) for block, found in points.items() if found]

    def errors(self, split: str) -> list[Curve]:
        """A series of errors on a split for each read-out."""
        points: dict[str, list[tuple[int, float]]] = {}
        for each in self.evaluations:
            if each.split == split:
                for readout, error in each.readouts.items():
                    points.setdefault(readout, []).append((each.step, error))
        return [curve(readout, found) for readout, found in points.items()]


def curve(name: str, points: list[tuple[int, float]]) -> Curve:
    """Join points in the order of their steps; of several at one step the last counts."""
    steps = dict(sorted(points))
    return Curve(name, tuple(steps), tuple(steps.values()))


def block_name(block: int) -> str:
    """The name of a block in pictures and tables."""
    return "head" if block == HEAD else f"block {block}"


def read_run(run: str | Path) -> Record:
    """Read a run folder. Raises UserError where it is not one."""
    folder, config = open_run(run)
    going = is_trained(folder)
    return Record(folder, config, attempt(lambda: _past(folder)), attempt(lambda: _summary(folder)), going)


def is_trained(folder: RunFolder) -> bool:
    """Whether a process holds the run's lock."""
    try:
        handle = os.open(folder.path / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Shared, and given back at once: several reports may ask at the same time.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks in this file system: a summary that is renewed is a sign of life
        summary = attempt(lambda: _summary(folder)).value
        return summary is not None and summary.status == "running" and time.time() - summary.written_at < 3600
    finally:
        os.close(handle)
    return False


def _past(folder: RunFolder) -> Past:
    if not folder.past.exists():
        raise UserError("there is no past.json: nothing has been measured yet, or the file is lost")
    return folder.read_past()


def _summary(folder: RunFolder) -> Summary:
    try:
        return msgspec.json.decode(read_whole(folder.summary, LARGEST_PAST), type=Summary)
    except FileNotFoundError:
        raise UserError("there is no summary.json: it is written with the first snapshot") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"cannot read {folder.summary}: {error}") from None

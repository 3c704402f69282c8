"""trace.json read line by line, in bounded memory whatever its size: when each stage did what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ffpipe.system.errors import UserError
from ffpipe.system.files import size_of

# Spans that are read, the longest line that one takes, bins of the whole time, and spans of a stage that are drawn.
MOST_SPANS = 400_000
LONGEST_LINE = 2_000
BINS = 300
DRAWN = 40
# Stages have a place each in an array, which a number in a stranger's trace would make as large as it is.
MOST_STAGES = 1000
# A stage's kinds of work, from the names of its spans, in the order in which pictures have it.
_KINDS = {
    "compute Train": "train",
    "compute Evaluate": "test",
    "compute Snapshot": "snapshot",
    "input": "waits for input",
    "credit": "waits for the window",
    "blocked": "waits to hand over",
    "exchange": "waits for replicas",
}
ACTIVITIES = tuple(_KINDS.values())
# The name of a process: of each stage one, and another where a recovery has given it other layers.
_STAGE = re.compile(r"stage (\d{1,3})(?:, replica (\d+))?:")


class Event(msgspec.Struct):
    """One line of a trace. args: of a process, its name."""

    ph: Literal["X", "M"]
    name: str
    pid: Annotated[int, Meta(ge=0, le=MOST_STAGES)]
    tid: int = 0
    ts: Annotated[float, Meta(ge=0, le=1e18)] = 0.0
    dur: Annotated[float, Meta(ge=0, le=1e15)] = 0.0
    args: dict[str, object] = {}


class Span(NamedTuple):
    """Seconds since the trace began, and seconds. kind: a place in ACTIVITIES."""

    stage: int
    kind: int
    start: float
    seconds: float


class Timeline(NamedTuple):
    """The work of each stage over time. shares: (stages, ACTIVITIES, BINS), of the time of each bin. spans: of a short
    time in the middle. cut: whether there is more in the file than was read."""

    seconds: float
    shares: NDArray[np.float64]
    spans: tuple[Span, ...]
    cut: bool


def read_trace(path: Path) -> Timeline:
    """Read a trace, also of a run that is still going. Raises UserError."""
    spans, cut = _spans(path)
    if not spans:
        raise UserError(f"{path} has no spans yet")
    began = min(span.start for span in spans)
    ended = max(span.start + span.seconds for span in spans)
    stages = max(span.stage for span in spans) + 1
    width = max(ended - began, 1e-9) / BINS
    shares = np.zeros((stages, len(ACTIVITIES), BINS))
    for span in spans:
        _spread(shares[span.stage, span.kind], (span.start - began) / width, span.seconds / width)
    moved = [Span(span.stage, span.kind, span.start - began, span.seconds) for span in spans]
    return Timeline(ended - began, shares, _middle(moved, stages), cut)


def _spans(path: Path) -> tuple[list[Span], bool]:
    try:
        size_of(path)
    except FileNotFoundError:
        raise UserError("there is no trace.json: --execution.trace true writes one") from None
    decoder, found = msgspec.json.Decoder(Event), list[Span]()
    stages: dict[int, int] = {}
    others: set[int] = set()  # than the first replicas, which stand for their stages
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            text = line.strip().rstrip(b",")
            if not text.startswith(b"{"):
                continue
            try:
                event = decoder.decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # a line that is being written
                continue
            if event.ph == "M" and (named := _STAGE.match(str(event.args.get("name")))):
                stages[event.pid] = int(named[1])
                others |= {event.pid} if int(named[2] or 0) else set()
            # Thread 1 publishes beside the others, whose times are to add up.
            kind = next((kind for kind, beginning in enumerate(_KINDS) if event.name.startswith(beginning)), None)
            if kind is not None and event.ph == "X" and event.tid == 0 and event.pid not in others:
                found.append(Span(stages.get(event.pid, event.pid), kind, event.ts / 1e6, event.dur / 1e6))
            if len(found) >= MOST_SPANS:
                return found, True
    return found, False


def _spread(bins: NDArray[np.float64], start: float, length: float) -> None:
    """Add a span to the bins that it covers. start, length: in bins."""
    first, last = int(start), min(int(start + length), len(bins) - 1)
    for place in range(min(first, len(bins) - 1), last + 1):
        bins[place] += max(0.0, min(start + length, place + 1) - max(start, place))


def _middle(spans: list[Span], stages: int) -> tuple[Span, ...]:
    """Take the spans around the middle of training, as many as a picture can hold."""
    ordered = sorted(spans, key=lambda span: span.start)
    trained = [index for index, span in enumerate(ordered) if span.kind == 0]
    if not trained:
        return ()
    middle, half = trained[len(trained) // 2], DRAWN * min(stages, 4) // 2
    return tuple(ordered[max(0, middle - half) : middle + half])

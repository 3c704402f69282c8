"""The seconds of a stage: spans of work and of waiting, summed always and kept one by one for a trace.

compute  on an item (and, in the first stage, making its rows)
input    waiting for the next message
credit   waiting until the window lets the next item leave (first stage)
publish  handing results over, in a thread of its own beside the others
blocked  waiting until that thread takes the next result
exchange waiting for the sums of other replicas
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

Kind = Literal["compute", "input", "credit", "publish", "blocked", "exchange"]
SPAN_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Span:
    """Seconds since the epoch, and seconds."""

    kind: Kind
    label: str
    start: float
    seconds: float


class _Open:
    """Spans that have not ended, the innermost last, and since when that one has not been counted."""

    def __init__(self) -> None:
        self.spans: list[tuple[Kind, str]] = []
        self.since = 0.0


class Spans:
    """The spans of one stage. keep: whether each is kept until it is drained, or summed alone."""

    def __init__(self, keep: bool) -> None:
        self.totals: dict[Kind, float] = dict.fromkeys(SPAN_KINDS, 0.0)
        self._keep = keep
        self._kept: list[Span] = []
        self._publishing, self._others = _Open(), _Open()
        self._began = time.perf_counter()
        # One offset for all spans: the wall clock may be set while a run goes on, and spans would overlap.
        self._epoch = time.time() - self._began

    @contextmanager
    def span(self, kind: Kind, label: str = "") -> Iterator[None]:
        """Record a span around what is done or waited for; within another span it interrupts that one. Publishing is
        beside all others, as it has a thread of its own."""
        # Not by thread: replicas exchange sums in the threads of forward passes too, one at a time, while the stage's
        # own thread waits for these (learn/meeting.py).
        now = self._publishing if kind == "publish" else self._others
        if now.spans:
            self._count(now)
        now.spans.append((kind, label))
        now.since = time.perf_counter()
        try:
            yield
            self._count(now)
        finally:
            now.spans.pop()
            now.since = time.perf_counter()

    def _count(self, now: _Open) -> None:
        """Count what has passed of the innermost span."""
        (kind, label), since = now.spans[-1], now.since
        seconds = time.perf_counter() - since
        self.totals[kind] += seconds
        if self._keep:
            self._kept.append(Span(kind, label, self._epoch + since, seconds))

    @property
    def began_at(self) -> float:
        """The time at which the stage began to run, in seconds since the epoch."""
        return self._epoch + self._began

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began to run."""
        return time.perf_counter() - self._began

    def drain(self) -> list[Span]:
        """Return the spans that were kept since the last call."""
        kept, self._kept = self._kept, []
        return kept


class TraceFile:
    """A Chrome trace (the JSON array form, which Perfetto and chrome://tracing open), written as spans come in."""

    def __init__(self, path: Path) -> None:
        # A file that is there may be a link to a file that is not ours to write.
        path.unlink(missing_ok=True)
        self._file: IO[str] = path.open("w", encoding="utf-8")
        self._first = True
        self._processes: dict[str, int] = {}
        # Viewers take the array without its end too, as a killed run leaves it.
        self._file.write("[\n")

    def add(self, stage: int, name: str, spans: list[Span]) -> None:
        """Add the spans of one stage: a process in the trace, with publishing as its second thread. A stage that has
        another name after a recovery is another process: viewers know one name of each."""
        if name not in self._processes:
            taken = self._processes.values()
            self._processes[name] = max(taken) + 1 if stage in taken else stage
            self._write({"ph": "M", "name": "process_name", "pid": self._processes[name], "args": {"name": name}})
        for span in spans:
            self._write(
                {
                    "ph": "X",
                    "name": f"{span.kind} {span.label}".strip(),
                    "cat": span.kind,
                    "pid": self._processes[name],
                    "tid": 1 if span.kind == "publish" else 0,
                    "ts": round(span.start * 1e6, 1),
                    "dur": round(span.seconds * 1e6, 1),
                }
            )

    def close(self) -> None:
        self._file.write("\n]\n")
        self._file.close()

    def _write(self, event: dict[str, object]) -> None:
        # A line each: a report reads the file so, in bounded memory (reports/trace.py).
        self._file.write(("" if self._first else ",\n") + json.dumps(event))
        self._first = False

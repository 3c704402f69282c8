"""Where a stage's seconds go, from the moment it begins to run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ffpipe.telemetry.report import StageReport


class StageClock:
    """Counts a stage's busy seconds and stamps its reports."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._busy = 0.0
        self._trained = 0.0

    @contextmanager
    def busy(self, *, training: bool) -> Iterator[None]:
        """Around work; `training` where it is part of a Train item."""
        begun = time.monotonic()
        yield
        ended = time.monotonic()
        self._busy += ended - begun
        if training:
            self._trained = ended - self._started

    def stamp(self, report: StageReport) -> StageReport:
        """Fill in the times of a report."""
        report.seconds = time.monotonic() - self._started
        report.train_seconds = self._trained
        report.busy_seconds = self._busy
        return report

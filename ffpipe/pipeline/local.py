"""The local engine: down each column of the grid, one cell at a time. Plain sequential code, the reference."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch

from ffpipe.errors import UserError
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import Job, Layout, OnReport, write_layers
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage
from ffpipe.telemetry.clock import StageClock

REPORT_SECONDS = 0.5


class LocalEngine:
    """Every stage in this process."""

    def stages(self, job: Job) -> int:
        execution = job.config.execution
        if execution.device == "cuda" and not torch.cuda.is_available():
            raise UserError("execution.device is 'cuda', but torch finds no GPU here: give --device cpu")
        return execution.stages or 1

    def run(self, job: Job, layout: Layout, checkpoints: Path, on_report: OnReport) -> None:
        write = partial(write_layers, checkpoints)
        stages = [Stage(spec, write) for spec in layout.stages]
        feed = Feed(job.config.training, job.splits, stages[0].device)
        clocks = [StageClock() for _ in stages]
        reported = time.monotonic()
        for item in layout.plan.items():
            streams = feed.streams(item)
            for stage, clock in zip(stages, clocks, strict=True):
                with clock.busy(training=isinstance(item, Train)):
                    streams = stage.handle(item, streams)
            feed.predictions(stages[-1].predictions(item))
            if time.monotonic() - reported > REPORT_SECONDS:
                self._report(stages, clocks, on_report)
                reported = time.monotonic()
        self._report(stages, clocks, on_report)

    def close(self) -> None:
        """Nothing was started."""

    @staticmethod
    def _report(stages: list[Stage], clocks: list[StageClock], on_report: OnReport) -> None:
        for stage, clock in zip(stages, clocks, strict=True):
            on_report(clock.stamp(stage.report()))

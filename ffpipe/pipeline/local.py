"""The local engine: down each column of the grid, one cell at a time. Plain sequential code, the reference."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from ffpipe.errors import UserError
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import Job, Layout, OnReport, make_layout, write_layers
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage
from ffpipe.telemetry.spans import Spans

REPORT_SECONDS = 0.5


class LocalEngine:
    """Every stage in this process."""

    def layout(self, job: Job) -> Layout:
        execution = job.config.execution
        if execution.device == "cuda" and not torch.cuda.is_available():
            raise UserError("execution.device is 'cuda', but torch finds no GPU here: give --device cpu")
        return make_layout(job, execution.stages or 1)

    def run(self, job: Job, layout: Layout, checkpoints: Path, on_report: OnReport) -> None:
        write = partial(write_layers, checkpoints)
        stages = [Stage(spec, write) for spec in layout.stages]
        feed = Feed(job.config.training, job.splits, stages[0].device)
        spans = [Spans(keep=job.config.execution.trace) for _ in stages]
        trained = (0.0, 0.0)
        reported = 0.0
        for item in layout.plan.items():
            begun = spans[0].elapsed
            with spans[0].span("compute", label=str(item)):
                streams = feed.streams(item)
            for stage, of_stage in zip(stages, spans, strict=True):
                with of_stage.span("compute", label=str(item)):
                    streams = stage.handle(item, streams)
            feed.predictions(stages[-1].predictions(item))
            if isinstance(item, Train):
                trained = (trained[0] or begun, spans[0].elapsed)
            if spans[0].elapsed - reported > REPORT_SECONDS:
                self._report(stages, spans, trained, on_report)
                reported = spans[0].elapsed
        self._report(stages, spans, trained, on_report)

    def close(self) -> None:
        """Nothing was started."""

    @staticmethod
    def _report(stages: list[Stage], spans: list[Spans], trained: tuple[float, float], on_report: OnReport) -> None:
        for stage, of_stage in zip(stages, spans, strict=True):
            report = stage.report()
            report.began_at, report.seconds = of_stage.began_at, of_stage.elapsed
            report.train_began, report.train_seconds = trained
            report.seconds_by_kind = dict(of_stage.totals)
            report.spans = of_stage.drain()
            on_report(report)

"""The local engine: down each column of the grid, one cell at a time. Plain sequential code, the reference."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ffpipe.engines.in_process import as_stages, refuse_without_gpu
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Course, Train
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.worker import WorkerSetup, make_feed, make_stage, set_allocator
from ffpipe.planning.layout import make_layout
from ffpipe.storage.store import Store
from ffpipe.telemetry.spans import Spans

REPORT_SECONDS = 0.5


class LocalEngine:
    """Every stage in this process."""

    def __init__(self) -> None:
        self._course: Course | None = None
        self._interrupted = False

    def layout(self, job: Job) -> Layout:
        refuse_without_gpu(job.config.execution)
        return make_layout(job, job.config.execution.stages or 1)

    def layout_again(self, job: Job, store: Store) -> Layout:
        return self.layout(job)

    def check_store(self, store: Store) -> None:
        """All is on this host."""

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        as_stages(lambda: self._run(job, layout, store, start, on_report))

    def _run(self, job: Job, layout: Layout, store: Store, start: Start, on_report: OnReport) -> None:
        if job.config.execution.memory_budget or not job.network.is_closed_form:
            set_allocator(job.network)
        setups = [WorkerSetup(spec, layout.plan, 0, job.config, store, start) for spec in layout.stages]
        savers = [Saver(store) for _ in setups]
        workspace = Workspace(torch.device(job.config.execution.first_device))
        stages = [make_stage(setup, saver, workspace) for setup, saver in zip(setups, savers, strict=True)]
        feed = make_feed(setups[0], job.splits)
        self._course = Course(layout.plan, start.step, job.config.execution.snapshot_seconds, time.monotonic)
        if self._interrupted:  # before there was a course to tell
            self._course.interrupt()
        spans = [Spans(keep=job.config.execution.trace) for _ in stages]
        trained = (0.0, 0.0)
        reported = 0.0
        for item in self._course:
            begun = spans[0].elapsed
            with spans[0].span("compute", label=str(item)):
                incoming = {0: feed.tensors(item) or {}}
            for index, (stage, of_stage) in enumerate(zip(stages, spans, strict=True)):
                with of_stage.span("compute", label=str(item)):
                    made = stage.handle(item, incoming.pop(index, None) or None)
                for receiver, part in stage.spec.routes.parts(index, made or {}).items():
                    incoming.setdefault(receiver, {}).update(part)
            feed.predictions(stages[-1].predictions(item))
            if isinstance(item, Train):
                trained = (trained[0] or begun, spans[0].elapsed)
            if spans[0].elapsed - reported > REPORT_SECONDS:
                self._report(stages, savers, spans, trained, on_report)
                reported = spans[0].elapsed
        for saver in savers:
            saver.wait()
        self._report(stages, savers, spans, trained, on_report)

    def interrupt(self) -> None:
        self._interrupted = True
        if self._course is not None:
            self._course.interrupt()

    def close(self) -> None:
        """Nothing was started."""

    @staticmethod
    def _report(
        stages: list[Stage],
        savers: list[Saver],
        spans: list[Spans],
        trained: tuple[float, float],
        on_report: OnReport,
    ) -> None:
        for stage, saver, of_stage in zip(stages, savers, spans, strict=True):
            report = stage.report()
            report.began_at, report.seconds = of_stage.began_at, of_stage.elapsed
            report.train_began, report.train_seconds = trained
            report.seconds_by_kind = dict(of_stage.totals)
            report.spans = of_stage.drain()
            report.files, report.failures = saver.drain()
            on_report(report)

"""The local engine: down each column of the grid, one cell at a time. Plain sequential code, the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ffpipe.data.splits import Splits
from ffpipe.engines.in_process import InProcessEngine, as_stages, refuse_without_gpu, reported
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.worker import report_of
from ffpipe.pipeline.worker_setup import AnyFeed, WorkerSetup, make_feed, make_stage, set_allocator
from ffpipe.planning.layout import make_layout
from ffpipe.storage.store import Store
from ffpipe.telemetry.spans import Spans

REPORT_SECONDS = 0.5


class LocalEngine(InProcessEngine):
    """Every stage in this process. feed: makes what the first stage reads. report_seconds: from one report to the
    next; 0: after every item."""

    def __init__(
        self, feed: Callable[[WorkerSetup, Splits], AnyFeed] = make_feed, report_seconds: float = REPORT_SECONDS
    ) -> None:
        super().__init__()
        self._make_feed, self._report_seconds = feed, report_seconds

    def layout(self, job: Job) -> Layout:
        refuse_without_gpu(job.config.execution)
        return make_layout(job, job.config.execution.stages or 1)

    @as_stages()
    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        # Else the allocator of a process that may be the user's own is left as it is.
        if job.config.execution.memory_budget or job.config.execution.keep_freed:
            set_allocator(job.network, job.config.execution)
        setups = [WorkerSetup(spec, layout.plan, 0, job.config, store, start) for spec in layout.stages]
        # One for each: a marker waits for what its saver still writes, and no stage is to wait for another's files.
        savers = [Saver(store) for _ in setups]
        workspace = Workspace(torch.device(job.config.execution.first_device))
        stages = [make_stage(setup, saver, workspace) for setup, saver in zip(setups, savers, strict=True)]
        feed = self._make_feed(setups[0], job.splits)
        spans = [Spans(keep=job.config.execution.trace) for _ in stages]
        trained = (0.0, 0.0)
        reported_at = 0.0

        def report() -> None:
            for stage, saver, of_stage in zip(stages, savers, spans, strict=True):
                on_report(report_of(stage, saver, of_stage, trained))

        def report_last() -> None:
            for saver in savers:
                saver.wait()
            report()

        with reported(report_last):
            for item in self.begin(job, layout, start):
                begun = spans[0].elapsed
                with spans[0].span("compute", label=str(item)):
                    incoming = {0: feed.tensors(item) or {}}
                for index, (stage, of_stage) in enumerate(zip(stages, spans, strict=True)):
                    with of_stage.span("compute", label=str(item)):
                        made = stage.handle(item, incoming.pop(index, None) or None)
                    for receiver, part in stage.spec.routes.parts(index, made or {}).items():
                        incoming.setdefault(receiver, {}).update(part)
                feed.take_predictions(stages[-1].predictions(item))
                if isinstance(item, Train):
                    trained = (trained[0] or begun, spans[0].elapsed)
                if spans[0].elapsed - reported_at > self._report_seconds:
                    report()
                    reported_at = spans[0].elapsed

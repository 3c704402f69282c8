"""The layerwise engine: along a row of the grid for a chapter of items, then the next row; one stage in memory.

    chapter      items 0 .. n-1            items n .. m-1
    stage 0      [1] ------------>  [4] ------------>
    stage 1      [2] ------------>  [5] ------------>      [1], [2], ...: the order of the rows; between two rows
    stage 2      [3] ------------>  [6] ------------>      activations lie in a spool, the other stages are parked

What a stage hands on is from the step at which it was made, so the weights are the bits of every other order.
A chapter is bounded as a window is: with hard negatives it is no longer than the lag.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from ffpipe.engines.in_process import InProcessEngine, as_stages, refuse_without_gpu, reported
from ffpipe.engines.layerwise import spoolfolder
from ffpipe.engines.layerwise.parking import ParkedStage, fetch, leave, park
from ffpipe.engines.layerwise.spool import Spool
from ffpipe.learn.workspace import OutputsInTurn, Workspace
from ffpipe.pipeline.job import Job, Layout, OnReport, Start
from ffpipe.pipeline.packet import Arrays, Tensors, to_arrays, to_tensors
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Item, ItemStream, Predict, Snapshot, Stop, Train
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.worker import report_of
from ffpipe.pipeline.worker_setup import WorkerSetup, make_feed, make_stage, set_allocator
from ffpipe.planning.layerwise import chapter_of, in_chapters
from ffpipe.storage.store import Store
from ffpipe.system.errors import RunFailed, reason
from ffpipe.telemetry.spans import Spans

# Results at once: each is on disk before the next one is computed.
OUTPUTS = 1


class LayerwiseEngine(InProcessEngine):
    """Every stage in this process, one at a time in memory. spool: keeps what one stage hands to another."""

    spool = Spool

    def layout(self, job: Job) -> Layout:
        refuse_without_gpu(job.config.execution)
        spoolfolder.check(job.config.execution)
        return in_chapters(job)

    @as_stages()
    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        """Work all chapters. Raises StageLost where a spool's file is damaged, RunFailed where it finds no room."""
        set_allocator(job.network, job.config.execution)
        stream = self.begin(job, layout, start)
        inside = Path(job.config.execution.spool or scratch)
        try:
            with spoolfolder.spool_folder(inside) as place:
                rows = _Sweep(job, layout, store, start, place, on_report, self.spool)
                with reported(rows.report_last):
                    while not rows.over:
                        rows.work_chapter(stream)
        except OSError as error:
            raise RunFailed(
                f"the spool in {inside} cannot be written ({reason(error)}): make room, or give another "
                "place with --execution.spool or a shorter --execution.chapter"
            ) from error


class _Sweep:
    """The rows of one run, chapter by chapter."""

    def __init__(
        self, job: Job, layout: Layout, store: Store, start: Start, place: Path, on_report: OnReport, spool: type[Spool]
    ) -> None:
        setups = [WorkerSetup(spec, layout.plan, 0, job.config, store, start) for spec in layout.stages]
        compression = None if (asked := job.config.execution.spool_compression) == "none" else asked
        routes = layout.stages[0].routes
        self._place, self._plan, self._room = place, layout.plan, layout.window
        self._spools = {
            (sender, receiver): spool(place / spool_name(sender, receiver), compression)
            for sender in range(len(setups))
            for receiver in routes.receivers(sender)
        }
        self._on_report = on_report
        # One for all: what it copies is in memory beside the stage at work, and a second copy is not to come to it.
        self._saver = Saver(store)
        self._spans = [Spans(keep=job.config.execution.trace) for _ in setups]
        self._trained = [(0.0, 0.0)] * len(setups)
        self._feed = make_feed(setups[0], job.splits)
        self._stages: list[Stage] = []
        self._parked_stages: list[ParkedStage] = []
        workspace = Workspace(torch.device(job.config.execution.first_device))
        outputs = OutputsInTurn(workspace, OUTPUTS)
        for setup in setups:
            stage = make_stage(setup, self._saver, workspace, outputs)
            # Before the next one is made, which might not fit beside it.
            self._parked_stages.append(park(stage, self._parked(setup.spec.index)))
            self._stages.append(stage)
        self._at_work = 0
        self.over = False

    def work_chapter(self, stream: ItemStream) -> None:
        """Work one chapter, all rows. The first row takes items as they come, so that an interrupt ends the chapter. An
        error of a stage ends it too, but later rows go as far as the last snapshot before it, which becomes whole. One
        of the feed, the spool or a parked stage ends it at once, and no snapshot of the chapter becomes whole."""
        chapter: list[Item] = []
        error: Exception | None = None
        for index, stage in enumerate(self._stages):
            if error is not None and not chapter:
                break
            self._at_work = index
            with self._spans[index].span("input"):
                fetch(stage, self._parked_stages[index])
            items = self._taken(stream, chapter) if index == 0 else iter(chapter)
            if failed := self._work_row(index, stage, items):
                place, error = failed
                # Whatever comes after the last snapshot would be lost.
                markers = [number for number, item in enumerate(chapter[:place], 1) if isinstance(item, Snapshot)]
                del chapter[max(markers, default=0) :]
            with self._spans[index].span("blocked"):
                # If nothing was trained (Predict trains the head) the file still holds; after an error none is needed.
                if error is None and any(isinstance(item, (Train, Predict)) for item in chapter):
                    self._parked_stages[index] = park(stage, self._parked(index))
                else:
                    leave(stage)
            self._report(index)
        if error is not None:
            raise error

    def report_last(self) -> None:
        """Wait for the last snapshot, and report it with what the stage at work has done."""
        self._saver.wait()
        self._report(self._at_work)

    def _taken(self, stream: ItemStream, chapter: list[Item]) -> Iterator[Item]:
        """Yield the items for one chapter, put down in `chapter` as they are taken: later rows work the same ones."""
        for item in chapter_of(stream, self._plan, self._room):
            chapter.append(item)
            self.over = isinstance(item, Stop)
            yield item

    def _work_row(self, index: int, stage: Stage, items: Iterable[Item]) -> tuple[int, Exception] | None:
        """Work one stage through the chapter: read what others left for it, leave what others need. Returns where it
        failed, in number of items, and why; None: it did not."""
        last, routes = len(self._stages) - 1, stage.spec.routes
        spans = self._spans[index]
        with contextlib.ExitStack() as files:
            readers = [files.enter_context(self._spools[sender, index].reading()) for sender in routes.senders(index)]
            for receiver in routes.receivers(index):
                files.enter_context(self._spools[index, receiver].writing())
            for message, item in enumerate(items):
                with spans.span("input"):
                    tensors = self._tensors(message, item, readers, stage)
                begun = spans.elapsed
                try:
                    with spans.span("compute", label=str(item)):
                        out = stage.handle(item, tensors)
                except Exception as error:  # raised when others have worked what can be saved
                    return message, error
                if isinstance(item, Train):
                    self._trained[index] = (self._trained[index][0] or begun, spans.elapsed)
                if index == last:
                    self._feed.take_predictions(stage.predictions(item))
                if out is not None:
                    with spans.span("publish"):
                        for receiver, part in routes.parts(index, to_arrays(out)).items():
                            self._spools[index, receiver].write(message, part)
                del tensors, out  # before the next message comes beside them
        return None

    def _tensors(
        self, message: int, item: Item, readers: Sequence[Callable[[int], Arrays]], stage: Stage
    ) -> Tensors | None:
        if not readers:
            return self._feed.tensors(item)
        arrays: Arrays = {}
        for read in readers:
            arrays |= read(message)
        return to_tensors(arrays, stage.device) if arrays else None

    def _parked(self, index: int) -> Path:
        return self._place / f"stage-{index:03d}.parked"

    def _report(self, index: int) -> None:
        self._on_report(report_of(self._stages[index], self._saver, self._spans[index], self._trained[index]))


def spool_name(sender: int, receiver: int) -> str:
    """Name the file of what a stage hands to another. Rows to the next stage have two files that take turns, since no
    more are in use at a time; what goes past it waits in a file of its own."""
    return f"rows-{receiver % 2}.arrow" if receiver == sender + 1 else f"from-{sender:03d}-to-{receiver:03d}.arrow"

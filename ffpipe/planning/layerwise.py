"""Layerwise training in chapters: what is in one, and how long it may be by lag and by the room on the spool's disk."""

from __future__ import annotations

import bisect
import functools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.schedule import Item, Plan, Stop
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.pipeline.window import Flow, largest_chunk
from ffpipe.planning.layout import make_layout
from ffpipe.planning.memory import NetworkSizes, beside_bytes
from ffpipe.storage import checkpoint
from ffpipe.storage.store import store_of
from ffpipe.system.errors import UserError
from ffpipe.system.units import format_size

# Minibatches in a chapter where neither negatives nor the disk bound it: so many that parking a stage and fetching
# it again is a small part of the work in between.
CHAPTER = 256
# Minibatches handled at once; more would only hold memory.
CHUNK = 4
# A run takes at most this share of a disk's room beside snapshots: metrics, and what others write, are to fit there.
SHARE = 0.8


def in_chapters(job: Job) -> Layout:
    """Lay a run out in chapters as long as lag and disk allow, where no length is given.

    Raises UserError where the disk is full.
    """
    execution = job.config.execution
    # A chunk, which has no more minibatches than the run, is handled at once, so that no chapter is shorter.
    least = execution.chapter or min(execution.chunk, job.steps) or 1
    chapter = execution.chapter or max(least, min(job.config.training.most_in_flight or CHAPTER, CHAPTER))
    layout = _of_chapter(job, chapter)
    # No longer than the whole run: room would be asked for that nothing takes.
    chapter = min(chapter, layout.plan.longest_window)
    least, layout = min(least, chapter), replace(layout, window=chapter)
    of = NetworkSizes(job.network, layout.plan.chunk)
    place = _existing(Path(execution.spool or execution.run_dir or "runs"))
    free = shutil.disk_usage(place).free
    needed = functools.partial(needed_bytes, layout.stages, of, snapshots=_snapshots_beside(job, place))
    fits = longest_chapter(needed, free, chapter)
    if fits == chapter:
        return layout
    if execution.chapter or fits < least:
        shorter = f" or --execution.{'chapter' if execution.chapter else 'chunk'} {fits}" if fits else ""
        raise UserError(
            f"{place} has {format_size(free)} free, but a chapter of {least} minibatches needs "
            f"{format_size(needed(least))}, with the snapshots that go to the same disk: give another place with "
            f"--execution.spool{shorter}"
        )
    return _of_chapter(job, fits)


def _of_chapter(job: Job, chapter: int) -> Layout:
    """Put one layer into a stage where nothing else is asked for. The window of the layout is the chapter."""
    execution = job.config.execution
    chunk = execution.chunk or min(CHUNK, chapter, largest_chunk(job.minibatch_bytes))
    execution = replace(execution, window=chapter, chunk=chunk)
    job = replace(job, config=replace(job.config, execution=execution))
    return make_layout(job, execution.stages or job.layers)


def _existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    # A run makes its folders only when it is known to fit.
    whole = folder.absolute()
    return next(place for place in (whole, *whole.parents) if place.is_dir())


def chapter_of(items: Iterator[Item], plan: Plan, chapter: int) -> Iterator[Item]:
    """Take the items of one chapter: as many as may be in flight at once in a window of its length."""
    flow = Flow(chapter)
    for item in items:
        flow.sent(plan.weight(item))
        yield item
        if isinstance(item, Stop) or not flow.may_send(plan.chunk):
            return


def spooled_bytes(specs: Sequence[StageSpec], of: NetworkSizes) -> int:
    """Return a chapter's bytes on disk a minibatch: what a stage reads and writes, and what waits for later stages."""
    network = of.network
    # A chapter has as many messages as chunks, of which the largest may be those of an evaluation.
    each, seen = math.ceil(of.rows_of_message / of.chunk), math.ceil(of.seen_of_message / of.chunk)
    rows = [each * network.edges[spec.layers.stop].nbytes for spec in specs[:-1]]
    # The file of the last row is still there when the first row of the next chapter is written (layerwise/engine.py).
    before = rows[-1] if len(rows) > 1 else 0
    widest = max((a + b for a, b in pairwise([before, *rows])), default=0)
    waiting = [  # for each receiver in a file of its own
        name
        for spec in specs
        for receiver in spec.routes.receivers(spec.index)
        for name in spec.routes.names(spec.index, receiver)
    ]
    return widest + sum(beside_bytes(network, name, each, seen) for name in waiting)


def disk_bytes(specs: Sequence[StageSpec], of: NetworkSizes, chapter: int) -> int:
    """Return a run's bytes on disk at most, snapshots aside: all stages, each in a file while another works."""
    return of.whole_state + chapter * spooled_bytes(specs, of)


@dataclass(frozen=True)
class Snapshots:
    """Those that a run writes to the disk on which its spool is.

    kept: whole ones at most. there: whole ones that are there already. first, last: the steps from and to which the run
    goes. every: steps between two; 0: at the end only. timed: whether there are more, when it is time.
    """

    kept: int
    there: int
    first: int
    last: int
    every: int
    timed: bool

    def to_come(self, chapter: int) -> int:
        """Return the snapshots that are there at most beside those that are there now.

        The stages write in turn, so that all snapshots of a chapter are there in part before the first of them is
        whole and an old one goes. How many it will be time for in a chapter is not known: one is counted.
        """
        in_turn, of_chapter = 0, 0
        if self.every:
            in_turn = self.last // self.every - self.first // self.every
            # A snapshot takes the room of a minibatch in its chapter (`Plan.weight`).
            of_chapter = math.ceil(chapter / (self.every + 1))
        at_the_end = self.last > self.first and (not self.every or self.last % self.every > 0)
        most = max(0, self.kept - self.there) + of_chapter + at_the_end + self.timed
        # No more than are left, unless there are others whose number the clock decides.
        left = in_turn + at_the_end
        return most if left and self.timed else min(most, left)


def _snapshots_beside(job: Job, spool: Path) -> Snapshots | None:
    """Count the snapshots that will go to the disk of the spool; None where they go elsewhere. Raises UserError."""
    execution = job.config.execution
    store = store_of(job.config, Path(execution.run_dir or "runs"))
    if store.folder is None or _existing(store.folder).stat().st_dev != spool.stat().st_dev:
        return None
    there = checkpoint.whole_snapshots(store)
    first = int(there[-1].removeprefix("step-")) if there else 0
    return Snapshots(
        execution.keep_snapshots, len(there), first, job.steps, execution.snapshot_steps, execution.snapshot_seconds > 0
    )


def needed_bytes(specs: Sequence[StageSpec], of: NetworkSizes, chapter: int, snapshots: Snapshots | None) -> int:
    """Return the bytes that chapters of this length need. snapshots: None where they go to another disk."""
    to_come = snapshots.to_come(chapter) if snapshots else 0
    return math.ceil(disk_bytes(specs, of, chapter) / SHARE) + to_come * of.whole_state


def longest_chapter(needed: Callable[[int], int], free: int, most: int) -> int:
    """Return the longest chapter, of up to `most` minibatches, that needs no more bytes than are free; 0 for none."""
    return bisect.bisect_right(range(1, most + 1), free, key=needed)

"""The layout of the layerwise engine: in chapters as long as lag and disk allow."""

from __future__ import annotations

import functools
from dataclasses import replace

from ffpipe.pipeline.job import Job, Layout
from ffpipe.planning import spool_room
from ffpipe.planning.account import Sizes
from ffpipe.planning.chapters import longest_chapter, needed_bytes
from ffpipe.planning.layout import make_layout
from ffpipe.system.errors import UserError
from ffpipe.system.units import say_size

# Minibatches in a chapter where neither negatives nor the disk bound it: so many that parking a stage and fetching
# it again is a small part of the work in between.
CHAPTER = 256
# Minibatches handled at once; more would only hold memory.
CHUNK = 4


def in_chapters(job: Job) -> Layout:
    """In chapters as long as lag and disk allow, where no length is given. Raises UserError where the disk is full."""
    execution = job.config.execution
    longest = max(1, CHAPTER if (lag := job.config.training.lookahead) is None else lag)
    # A chunk is handled at once, so that no chapter is shorter.
    least = execution.chapter or execution.chunk or 1
    chapter = execution.chapter or max(least, min(longest, CHAPTER))
    layout = _of_chapter(job, chapter)
    of = Sizes(job.network, layout.plan.chunk)
    place, free = spool_room.room(execution)
    needed = functools.partial(needed_bytes, layout.stages, of, snapshots=spool_room.snapshots_beside(job))
    fits = longest_chapter(needed, free, chapter)
    if fits == chapter:
        return layout
    if execution.chapter or fits < least:
        shorter = f" or --execution.{'chapter' if execution.chapter else 'chunk'} {fits}" if fits else ""
        raise UserError(
            f"{place} has {say_size(free)} free, but a chapter of {least} minibatches needs "
            f"{say_size(needed(least))}, with the snapshots that go to the same disk: give another place with "
            f"--execution.spool{shorter}"
        )
    return _of_chapter(job, fits)


def _of_chapter(job: Job, chapter: int) -> Layout:
    """One layer a stage where nothing else is asked for. The window of the layout is the chapter."""
    execution = job.config.execution
    execution = replace(execution, window=chapter, chunk=execution.chunk or min(CHUNK, chapter))
    job = replace(job, config=replace(job.config, execution=execution))
    return make_layout(job, execution.stages or job.layers)

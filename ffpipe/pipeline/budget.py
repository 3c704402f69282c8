"""A run within `execution.memory_budget`: which engine, stages and chunk keep every process below it.

Nothing chosen here changes a bit of the weights. What the request itself fixes stays as it is.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ffpipe.config import Execution
from ffpipe.errors import UserError
from ffpipe.pipeline.account import Sizes
from ffpipe.pipeline.job import Fits, Job
from ffpipe.pipeline.layerwise import CHUNK
from ffpipe.pipeline.plan import Estimate, draft_layout, estimate_layout, estimate_stage, stages_here
from ffpipe.pipeline.schedule import LARGEST_CHUNK
from ffpipe.units import parse_size, say_size

# Of a budget, what a choice may come to by arithmetic: allocators keep a little that nobody has asked for.
SAFE = 0.95
# What the nearest budget that would do is rounded up to.
ROUNDED = 10 << 20


@dataclass(frozen=True)
class Choice:
    """One way to run, and what it takes."""

    execution: Execution
    takes: Estimate

    @property
    def needs(self) -> int:
        """Bytes of the largest stage: of its process, or of what it has on its GPU."""
        if self.execution.first_device == "cuda":
            return max(stage.holding.total for stage in self.takes.stages)
        return self.takes.largest


def within_budget(job: Job, process: int) -> tuple[Job, tuple[str, ...]]:
    """The job so that it keeps to its budget, and what was chosen and why, in words.

    process: bytes of a bare process. Raises UserError naming the least budget that would do.
    """
    execution = job.config.execution
    if not execution.memory_budget:
        return job, ()
    budget = parse_size(execution.memory_budget)
    least = math.inf
    for tried in _ways(job):
        candidate = replace(job, config=replace(job.config, execution=tried))
        choice = Choice(tried, estimate_layout(candidate, draft_layout(candidate), process))
        candidate = replace(candidate, fits=_fits(candidate, process, budget))
        with contextlib.suppress(UserError):  # no cut of which every stage fits
            choice = Choice(tried, estimate_layout(candidate, draft_layout(candidate), process))
            if choice.needs <= budget * SAFE:
                return candidate, _words(execution, choice, budget)
        least = min(least, choice.needs)
    enough = math.ceil(least / SAFE / ROUNDED) * ROUNDED
    raise UserError(
        f"execution.memory_budget is {execution.memory_budget}, but by whatever engine, number of stages and chunk the "
        f"rest of the config allows, a stage needs {say_size(enough)}: give --memory-budget "
        f"{math.ceil(enough / 2**20)}MiB, or smaller training.dims or training.batch_size"
    )


def _fits(job: Job, process: int, budget: int) -> Fits:
    """Whether a stage of these layers keeps to the budget."""
    execution = job.config.execution
    of = functools.cache(lambda chunk: Sizes(job.config.training, job.input, chunk))

    @functools.cache
    def fits(layers: range, chunk: int) -> bool:
        if execution.engine == "local":  # all stages are in one process, however it is cut
            return True
        stage = estimate_stage(job, of(chunk), layers, process)
        return (stage.holding.total if execution.first_device == "cuda" else stage.resident) <= budget * SAFE

    return fits


def _ways(job: Job) -> Iterator[Execution]:
    """From what would be done without a budget to what takes least."""
    execution, layers = job.config.execution, job.layers
    yield execution
    if execution.engine == "ray":
        given = execution.stages or execution.listed
        for stages in [given] if given else range(stages_here(job), layers + 1):
            for chunk in _halved(execution.chunk, LARGEST_CHUNK, job):
                yield replace(execution, stages=stages, chunk=chunk)
    if execution.engine == "local":
        for chunk in _halved(execution.chunk, LARGEST_CHUNK, job):
            yield replace(execution, chunk=chunk)
    if isinstance(execution.device, tuple):
        return
    stages = execution.stages if execution.engine == "layerwise" else 0
    window = execution.window if execution.engine == "layerwise" else 0
    for chunk in _halved(execution.chunk, CHUNK, job):
        yield replace(execution, engine="layerwise", stages=stages, chunk=chunk, window=window)


def _halved(given: int, largest: int, job: Job) -> list[int]:
    """Chunks to try: the one given, or ever smaller ones."""
    if given:
        return [given]
    return [chunk for chunk in (largest >> n for n in range(largest.bit_length())) if chunk <= _longest(job)]


def _longest(job: Job) -> int:
    """Minibatches that may be in flight."""
    lag = job.config.training.lookahead
    return job.steps if lag is None else max(1, lag)


def _words(before: Execution, choice: Choice, budget: int) -> tuple[str, ...]:
    after = choice.execution
    names = ("engine", "stages", "chunk")
    chosen = [(name, getattr(after, name)) for name in names if getattr(after, name) != getattr(before, name)]
    changed = [f"{name} {value}" for name, value in chosen if value]
    what = f"chosen for it: {', '.join(changed)}" if changed else "nothing had to be changed for it"
    return (f"memory: at most {say_size(choice.needs)} a stage, within the budget of {say_size(budget)}; {what}",)

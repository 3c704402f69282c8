"""A run within `execution.memory_budget`: which engine, stages and chunk keep every process below it.

Nothing chosen here changes a bit of the weights. Fields that the request itself fixes stay as they are, but for the
number of stages, which grows, and then the engine, where no other way is left.
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

from ffpipe.config.schema import Execution
from ffpipe.pipeline.job import Job
from ffpipe.pipeline.window import largest_chunk
from ffpipe.planning.estimate import (
    draft_layout,
    estimate_stage,
    groups_of,
    process_as,
    stages_here,
)
from ffpipe.planning.layerwise import CHUNK
from ffpipe.planning.layout import largest_window
from ffpipe.planning.memory import NetworkSizes
from ffpipe.system.errors import UserError
from ffpipe.system.units import format_size, parse_size

# A choice may come to this share of a budget by arithmetic: allocators keep a little that was not asked for.
SAFE = 0.95
# The nearest budget that would do is rounded up to a multiple of this.
ROUNDED = 10 << 20


def within_budget(job: Job, process: int) -> tuple[Job, tuple[str, ...]]:
    """Choose how to run the job so that it keeps to its budget; returns it, and what was chosen and why, in words.

    process: bytes of a bare process. Raises UserError naming the least budget that would do.
    """
    execution = job.config.execution
    if not execution.memory_budget:
        return job, ()
    search = _Search(job, process, parse_size(execution.memory_budget))
    least = math.inf
    for tried in search.ways():
        needs = search.needs(tried)
        # No cut of the local engine has been held to the budget.
        if needs is not None and needs <= search.budget * SAFE:
            # If nothing had to change, the engine itself chooses the stages, by the hosts that it finds.
            same = execution.engine == "ray" and tried == replace(execution, stages=stages_here(job))
            return search.with_(execution if same else tried), (_words(job, tried, needs, search.budget),)
        # A way that cannot be cut to the budget has no figure of its own: the cut for speed says what would be enough.
        with contextlib.suppress(UserError):  # of a disk without room, say
            least = min(least, search.needs_uncut(tried))
    if least == math.inf:
        search.needs_uncut(execution)  # raises what stands in the way
    enough = math.ceil(least / SAFE / ROUNDED) * ROUNDED
    sizes = "blocks" if job.config.training.model or job.config.training.blocks else "training.dims"
    raise UserError(
        f"execution.memory_budget is {execution.memory_budget}, but by whatever engine, number of stages and chunk the "
        f"rest of the config allows, a stage needs {format_size(enough)}: give --memory-budget "
        f"{math.ceil(enough / 2**20)}MiB, or smaller {sizes} or training.batch_size"
    )


class _Search:
    """Search through the ways in which a job can be run, for one that keeps to a budget.

    The budget is that of GPUs where all stages have one. If only some do, it is that of every process.
    """

    def __init__(self, job: Job, process: int, budget: int) -> None:
        self._job, self._process, self.budget = job, process, budget
        self._on_gpus = "cpu" not in job.config.execution.devices
        # Every number of stages that is tried is cut anew, and each cut asks for the same ranges of layers.
        self._held: dict[tuple[str, range, int], int] = {}

    def with_(self, execution: Execution) -> Job:
        """Return the job run so, with every stage held to the budget."""
        job = self._without(execution)

        def fits(layers: range, chunk: int) -> bool:
            return self._held_by(job, layers, chunk) <= self.budget * SAFE

        # The local engine has all stages in one process, however it is cut.
        return job if execution.engine == "local" else replace(job, fits=fits)

    def needs(self, execution: Execution) -> int | None:
        """Return the bytes of the largest stage of a way that is cut to the budget; None where no cut keeps to it."""
        with contextlib.suppress(UserError):
            return self._largest(self.with_(execution))
        return None

    def needs_uncut(self, execution: Execution) -> int:
        """Return the bytes of the largest stage of a way without a budget."""
        return self._largest(self._without(execution))

    def _without(self, execution: Execution) -> Job:
        """Return the job run so, without a budget."""
        return replace(self._job, config=replace(self._job.config, execution=execution))

    def _largest(self, job: Job) -> int:
        layout = draft_layout(job)
        return max(self._held_by(job, layers, layout.plan.chunk) for layers in groups_of(job, layout))

    def _held_by(self, job: Job, layers: range, chunk: int) -> int:
        """Return the bytes that a stage of these layers holds, whatever replicas it has: it is not known yet which of
        the stages they become."""
        execution = job.config.execution
        key = (execution.engine, layers, chunk)
        if key not in self._held:
            process = process_as(execution.engine, self._process, self._job.config.execution.engine)
            # The other engines compute all shards in one process.
            given = execution.replicas if execution.engine == "ray" else 1
            counts = set(given) if isinstance(given, tuple) else {given}
            sizes = [NetworkSizes(job.network, chunk, count) for count in counts]
            stages = [estimate_stage(job, of, layers, process) for of in sizes]
            self._held[key] = max(stage.on_device if self._on_gpus else stage.resident for stage in stages)
        return self._held[key]

    def ways(self) -> Iterator[Execution]:
        """Yield the ways to run, from what would be done without a budget to what takes least."""
        job, execution = self._job, self._job.config.execution
        ray, layerwise = execution.engine == "ray", execution.engine == "layerwise"
        if ray:
            # As many as there are here, so that what is judged is what will be run.
            execution = replace(execution, stages=stages_here(job))
        yield execution
        largest = largest_chunk(job.minibatch_bytes)
        if not layerwise:
            chunks = _halved(execution.chunk, min(largest_window(job), largest), job)
            # As the smallest messages need: larger ones take more of each stage, and so could only need more stages.
            stages = self._fewest(replace(execution, chunk=chunks[-1])) if ray else execution.stages
            for chunk in chunks:
                yield replace(execution, stages=stages, chunk=chunk)
        # One process cannot have a device for each stage (config/execution.py).
        if isinstance(execution.device, tuple):
            return
        # The window of another engine has no part in chapters, but `Job.least_bytes` would still count it.
        window = execution.window if layerwise else 0
        for stages in (execution.stages, 0) if layerwise and execution.stages else (0,):
            for chunk in _halved(execution.chunk, min(execution.chapter or CHUNK, CHUNK, largest), job):
                yield replace(execution, engine="layerwise", stages=stages, chunk=chunk, window=window)

    def _fewest(self, execution: Execution) -> int:
        """Return the least number of stages from this on that keeps to the budget; as many as there can be where none
        does.

        More stages have fewer layers each, so that what is possible stays so: the search halves. CPUs can be shared by
        more stages than there are of them, but not what each stage was to have.
        """
        each = execution.listed or execution.cpus or execution.memory or execution.resources
        shared = execution.first_device == "cpu" and not each and execution.placement != "one-host-each"
        counts = range(execution.stages, (self._job.layers if shared else execution.stages) + 1)

        def possible(count: int) -> bool:
            return self.needs(replace(execution, stages=count)) is not None

        return counts[min(bisect.bisect_left(counts, True, key=possible), len(counts) - 1)]


def _halved(given: int, largest: int, job: Job) -> list[int]:
    """Return the chunks to try: the one given, or ever smaller ones, of no more minibatches than may be in flight."""
    if given:
        return [given]
    longest = job.config.training.most_in_flight or job.steps
    return [chunk for chunk in (largest >> n for n in range(largest.bit_length())) if chunk <= longest]


def _words(job: Job, after: Execution, needs: int, budget: int) -> str:
    """Describe the choice, where it is not what would have been done without a budget."""
    before = job.config.execution
    stages = stages_here(job) if before.engine == "ray" else before.stages
    changed = [f"engine {after.engine}"] if after.engine != before.engine else []
    changed += [f"stages {after.stages}"] if after.stages not in (0, stages) else []
    changed += [f"chunk {after.chunk}"] if after.chunk != before.chunk else []
    what = f"chosen for it: {', '.join(changed)}" if changed else "nothing had to be changed for it"
    # As layers that are timed are cut, a stage may come to more, though never to more than the budget.
    return f"memory: about {format_size(needs)} a stage at most, within the budget of {format_size(budget)}; {what}"

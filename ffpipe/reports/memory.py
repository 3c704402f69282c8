"""Memory of a run: what arithmetic says of each stage as it was cut, to be laid beside what was measured."""

from __future__ import annotations

from typing import NamedTuple

from ffpipe.pipeline.job import Job
from ffpipe.planning.estimate import draft_layout, estimate_stage
from ffpipe.planning.memory import MemoryBreakdown, NetworkSizes
from ffpipe.reports.gather import Summary


class Memory(NamedTuple):
    """Bytes of each stage. predicted: in the order of MEMORY_KINDS. measured: its process's peak, if it is known."""

    layers: tuple[range, ...]
    predicted: tuple[tuple[int, ...], ...]
    measured: tuple[int | None, ...]


MEMORY_KINDS = ("process", "data", *MemoryBreakdown._fields, "mapped")


def memory(job: Job, summary: Summary | None, process: int) -> Memory:
    """Work out each stage as the summary has it, or would be cut. process: bytes of a bare one. Raises UserError."""
    layout, summary = draft_layout(job), summary or Summary()
    groups = [each for each in summary.stage_layers if each]
    layers = [spec.layers for spec in layout.stages]
    # Only where they are a cut of this network: the summary may be a stranger's.
    if [block for group in groups for block in group] == list(range(job.layers)):
        layers = [range(group[0], group[-1] + 1) for group in groups]
    peaks = summary.peak_rss_bytes
    if job.config.execution.engine == "local":  # all stages are in one process
        layers, peaks = [range(job.layers)], [max(peaks)] if peaks else []
    of = NetworkSizes(job.network, summary.chunk or layout.plan.chunk)
    estimates = [estimate_stage(job, of, each, process) for each in layers]
    predicted = tuple((each.process, each.data, *each.breakdown, each.mapped) for each in estimates)
    # Peaks of the run's stages say nothing of those of another cut.
    known = len(peaks) == len(layers)
    return Memory(tuple(layers), predicted, tuple(peaks) if known else (None,) * len(layers))

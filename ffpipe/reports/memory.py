"""Memory of a run: what arithmetic says of each stage as it was cut, to be laid beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from ffpipe.pipeline.job import Job
from ffpipe.planning.estimate import draft_layout, estimate_stage, process_as
from ffpipe.planning.memory import MemoryBreakdown, NetworkSizes
from ffpipe.reports.gather import Summary

# Engines that a summary may name.
ENGINES: tuple[Literal["ray", "local", "layerwise"], ...] = ("ray", "local", "layerwise")


class Memory(NamedTuple):
    """Bytes of each stage. predicted: in the order of MEMORY_KINDS. measured: its process's peak, if it is known."""

    layers: tuple[range, ...]
    predicted: tuple[tuple[int, ...], ...]
    measured: tuple[int | None, ...]


MEMORY_KINDS = ("process", "data", *MemoryBreakdown._fields, "mapped")


def memory(job: Job, summary: Summary | None, process: int) -> Memory:
    """Work out each stage as the summary has it, or would be cut. process: bytes of a bare one. Raises UserError."""
    layout, summary = draft_layout(job), summary or Summary()
    asked = job.config.execution
    engine = asked.engine
    counts: Sequence[int] = layout.stages[0].replicas.counts
    groups = [each for each in summary.stage_layers if each]
    layers = [spec.layers for spec in layout.stages]
    # Only where they are a cut of this network: the summary may be a stranger's.
    if [block for group in groups for block in group] == list(range(job.layers)):
        layers = [range(group[0], group[-1] + 1) for group in groups]
        # A budget may have chosen another engine, and a loss have left fewer replicas.
        engine = next((each for each in ENGINES if each == summary.engine), engine)
        counts = summary.replicas
    peaks = summary.peak_rss_bytes
    if engine == "local":  # all stages are in one process
        layers, peaks = [range(job.layers)], [max(peaks)] if peaks else []
    shards = job.config.training.shards
    if engine != "ray" or len(counts) != len(layers) or any(each not in range(1, shards + 1) for each in counts):
        counts = [1] * len(layers)
    process = process_as(engine, process, asked.engine)
    job = replace(job, config=replace(job.config, execution=replace(asked, engine=engine)))
    of = NetworkSizes(job.network, summary.chunk or layout.plan.chunk)
    estimates = [
        estimate_stage(job, replace(of, replicas=count), each, process)
        for each, count in zip(layers, counts, strict=True)
    ]
    predicted = tuple((each.process, each.data, *each.breakdown, each.mapped) for each in estimates)
    # Peaks of the run's stages say nothing of those of another cut.
    known = len(peaks) == len(layers)
    return Memory(tuple(layers), predicted, tuple(peaks) if known else (None,) * len(layers))

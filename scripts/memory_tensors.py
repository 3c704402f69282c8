"""Bytes of tensors, exactly, as torch's own allocator counts them: the peak of a piece of work."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from ffpipe import override, recipe
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.packet import LABELS, TAP, X
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage
from ffpipe.planning.layout import make_layout
from ffpipe.planning.memory import NetworkSizes, breakdown

MESSAGES = 3


def peak_bytes(work: Callable[[], None]) -> int:
    """Return the most bytes that were allocated at once, beyond what was before."""
    gc.collect()  # what others left is not to go in the middle of it
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    events = profiled.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def stage_tensors(depth: int, width: int, batch: int, chunk: int) -> dict[str, tuple[int, int]]:
    """Return peak and predicted bytes of the tensors of a stage of one layer, in the middle and at the end of such a
    depth."""
    fields = {
        "training.dims": [64, *[width] * depth],
        "training.batch_size": batch,
        "training.negatives": "random",
        "training.head_from": max(0, depth - 3),
        "training.data.validation": 0,
        "execution.evaluate_every": 0,
        "execution.stages": depth,
        "execution.chunk": chunk,
    }
    job = make_job(override(recipe("digits"), fields))
    layout = make_layout(job, depth)
    found, of = {}, NetworkSizes(job.network, chunk)
    for name, spec in (("middle", layout.stages[depth // 2 - 1]), ("last", layout.stages[-1])):
        rows = job.network.edges[spec.layers.start]
        tensors = {
            X: torch.rand(chunk, job.network.layout.rows, *rows.shape, dtype=rows.dtype),
            LABELS: torch.zeros(chunk, batch, dtype=torch.int64),
        }
        for sender in spec.routes.senders(spec.index):
            for feature in spec.routes.names(sender, spec.index):
                seen = job.network.outlines[int(feature.removeprefix(TAP))].outputs
                tensors[feature] = torch.rand(chunk, batch, *seen.shape, dtype=seen.dtype)

        def work() -> None:
            stage = Stage(spec, lambda *_: None)  # noqa: B023  # called at once
            for message in range(MESSAGES):
                stage.handle(Train(message * chunk, chunk), tensors)  # noqa: B023

        held = breakdown(of, spec.layers, sends=False, receives=True)
        found[name] = (peak_bytes(work), held.total - held.snapshot)
    return found

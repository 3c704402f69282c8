"""Memory of a run on this host alone, held against what there is: before it begins, and when a stage is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ffpipe.pipeline.job import Job
from ffpipe.planning.estimate import draft_layout, estimate_layout, process_of
from ffpipe.planning.memory import NetworkSizes, gradient_bytes
from ffpipe.system.errors import OutOfMemory, StageLost, UserError
from ffpipe.system.memory import ROOT, anonymous_bytes, hard_limit, oom_kills, room
from ffpipe.system.units import format_size

# Bytes of the seven processes of a Ray cluster of our own beside its stages; measured with Ray 2.60.
RAY_BYTES = 260 << 20
# Two stages of the digits came to 0.97 of what is worked out here. So much beyond a limit is beyond doubt.
SURE = 1.1


def needed(job: Job) -> int:
    """Return the bytes that the stages of a run, this program and Ray take, as the plan has it.

    Pages of files are left out: the system takes them back, and those of libraries are shared.
    """
    process = anonymous_bytes()
    of_stage = process_of(process, "ray")  # before anything else is loaded
    estimate = estimate_layout(job, draft_layout(job), of_stage)
    total, specs = process + RAY_BYTES, estimate.layout.stages
    for spec, stage, count in zip(specs, estimate.stages, specs[0].replicas.counts, strict=True):
        # A GPU has all that a stage holds but the copy that a snapshot is written from.
        on_gpu = 0 if spec.device == "cpu" else stage.breakdown.total - stage.breakdown.snapshot
        # Sums of two rounds of each replica lie in memory that no stage counts (shared_sums.py).
        exchanged = 2 * gradient_bytes(NetworkSizes(job.network, 1), spec.layers) if count > 1 else 0
        total += count * (stage.resident - stage.data - on_gpu + exchanged)
    return total


def balance(job: Job, root: Path = ROOT) -> str:
    """Say what the run takes, what there is, and what to do about it."""
    stages = len(draft_layout(job).stages)
    has, where = room(root)
    return (
        f"{stages} stage(s), this program and Ray take about {format_size(needed(job))} of memory, and {where} "
        f"{format_size(has)}: give {'--memory-budget, --stages 1 or ' if stages > 1 else ''}--engine local"
    )


def warnings(job: Job, root: Path = ROOT) -> tuple[str, ...]:
    """Return what a person should know before such a run begins. Raises UserError where it would be killed."""
    need = needed(job)
    if need > SURE * hard_limit(root):
        raise UserError(balance(job, root))
    return (f"warning: {balance(job, root)}",) if need > room(root)[0] else ()


class Kills:
    """Processes that the system kills for want of memory, told apart from others by their growing count."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root, self._count = root, oom_kills(root)

    @contextmanager
    def naming(self, advice: Callable[[], str]) -> Iterator[None]:
        """Say of a stage that is lost whether it was killed for want of memory, and what to do then."""
        try:
            yield
        except (StageLost, OutOfMemory) as error:
            # The count is of the whole host, so that another's kill looks the same; it lacks those by Ray's own watch.
            before, self._count = self._count, oom_kills(self._root)
            if isinstance(error, StageLost) and self._count == before:
                raise
            raise OutOfMemory(f"{error}; it was killed, probably for want of memory: {advice()}") from error

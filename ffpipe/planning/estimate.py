"""Memory and disk that a run will take, before it is started: bytes of each stage, of the object store and of the disk.

    resident = the process (Python, torch, Ray) + the data, for who feeds + what the stage holds (memory.py)
               + the messages that it has in sight: those in the object store that it reads and writes, or on disk

The object store as a whole is the host's, and not in any stage (memory.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.schema import Config, of_stage
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.learn.outline import Outline
from ffpipe.learn.spec import RowSpec
from ffpipe.pipeline.job import Job, Layout
from ffpipe.pipeline.replicas import replicas_of
from ffpipe.pipeline.worker_setup import largest_kept
from ffpipe.planning.calibrate import measure_costs
from ffpipe.planning.layerwise import disk_bytes, in_chapters
from ffpipe.planning.layout import make_layout, store_here
from ffpipe.planning.memory import MemoryBreakdown, NetworkSizes, breakdown, footprints, incoming, outgoing
from ffpipe.storage.checkpoint import Input
from ffpipe.system.memory import host_cpus, process_bytes

# Sizes of a network of which only its code takes memory.
SMALL = 16
# glibc's allocator comes to hold this many times the memory that a step takes at once, where it keeps what is freed:
# holes between tensors are too small for the next. Measured by scripts/bench_memory.py conv transformer.
KEPT = 2.4
# Tensors of up to so many bytes leave no holes that count (`ffpipe train dgl`).
LEAVES_HOLES = 4 << 20
# Bytes that a process came to have beyond that in a run of 16 units: threads, logs, Parquet, Ray's connections.
ENGINE_BYTES = {"local": 8 << 20, "layerwise": 16 << 20, "ray": 24 << 20}
# The compiler that torch 2.13 loads for shapes on the meta device, where no child process works them out (cost.py).
COMPILER_BYTES = 70 << 20


@dataclass(frozen=True)
class StageEstimate:
    """Bytes of one stage, or of its first replica: the others have no more. process: without ffpipe's tensors. data: of
    mapped files, at most in sight at once.

    mapped: of the object store or of a spool, in sight of the process. incoming: of the largest message that comes.
    """

    layers: range
    process: int
    data: int
    breakdown: MemoryBreakdown
    mapped: int
    incoming: int

    @property
    def resident(self) -> int:
        return self.process + self.data + self.breakdown.total + self.mapped

    @property
    def on_device(self) -> int:
        """Bytes on a GPU: what comes is copied there, and what is saved is copied from there."""
        return self.breakdown.total - self.breakdown.snapshot + self.incoming


@dataclass(frozen=True)
class Estimate:
    """Bytes of a run.

    store: of the object store of a host that has all stages. disk: of the layerwise engine, at most. snapshot: of
    the tensors of one.
    """

    layout: Layout
    stages: tuple[StageEstimate, ...]
    store: int
    disk: int
    snapshot: int

    @property
    def largest(self) -> int:
        """Bytes of the largest process of the run."""
        return max(stage.resident for stage in self.stages)


def bare_process(config: Config) -> int:
    """Return the bytes of a process that has loaded what a stage needs and used it on next to nothing: as this one, but
    for the compiler of torch where the stage is a process of its own."""
    training = config.training
    small = replace(
        training, dims=(SMALL, SMALL), blocks=(), model="", inputs="images", batch_size=SMALL, shards=1, accumulation=1,
        head_from=0, labels="none", goodness_from=0, method="forward-forward",
        # Blocks that are trained by autograd need more of torch, whatever they are.
        negatives="none" if training.by_autograd else training.negatives,
    )  # fmt: skip
    takes = Input((SMALL,), SMALL, SMALL)
    inputs, labels = row_specs(small, takes.shape, SMALL)
    bare, made = Blueprint(small, takes, inputs, labels, 1), RowSpec((SMALL,), torch.float32)
    # As `worked_out` would find it, which loads the compiler.
    only = Outline(0, FF_DENSE if small.contrasts else "dense", inputs, made, made, bare.rates)
    # A plan may be for devices that are elsewhere.
    device = config.execution.first_device if torch.cuda.is_available() else "cpu"
    measure_costs(replace(bare, outlines=(only,)), torch.device(device))
    return process_of(process_bytes(), config.execution.engine)


def process_of(own: int, engine: str) -> int:
    """Return the bytes of the process of a stage without its tensors. own: of this process, as it is now."""
    compiler = COMPILER_BYTES if engine == "ray" and "torch._dynamo" in sys.modules else 0
    return own - compiler + ENGINE_BYTES[engine]


def process_as(engine: str, process: int, measured: str) -> int:
    """Return the bytes of the process of a stage of another engine than the one for which they were measured."""
    return process + process_of(0, engine) - process_of(0, measured)


def stages_here(job: Job) -> int:
    """Return the stages of a Ray run on this machine alone: as many as it has room for, where no number is given."""
    execution = job.config.execution
    # By the first stage's values: fields with one for each stage give their number too (`listed`).
    cpus, gpus, replicas = (of_stage(each, 0) for each in (execution.cpus, execution.gpus, execution.replicas))
    # Divided by next to nothing, room is without end.
    room = min(float(job.layers * replicas), host_cpus() / (cpus or 1.0))
    if execution.first_device == "cuda" and torch.cuda.is_available():
        room = min(room, torch.cuda.device_count() / (gpus or 1.0))
    return execution.stages or execution.listed or int(max(1, room // replicas))


def draft_layout(job: Job) -> Layout:
    """Cut the job as the engine would if it measured nothing: with the largest chunk that it may come to."""
    execution = job.config.execution
    if execution.engine == "layerwise":
        return in_chapters(job)
    if execution.engine == "local":
        return make_layout(job, execution.stages or 1)
    stages = stages_here(job)
    return make_layout(job, stages, room=store_here(job, stages), counts=replicas_of(execution, stages))


def groups_of(job: Job, layout: Layout) -> list[range]:
    """Return the layers of each process, but for further replicas."""
    # The local engine has all stages in one process.
    return [range(job.layers)] if job.config.execution.engine == "local" else [spec.layers for spec in layout.stages]


def estimate_layout(job: Job, layout: Layout, process: int) -> Estimate:
    """Work out what a job takes that is cut so. process: bytes of a bare one."""
    engine, specs = job.config.execution.engine, layout.stages
    of = NetworkSizes(job.network, layout.plan.chunk)
    stores = footprints(specs, ["here"] * len(specs)).values() if engine == "ray" else ()
    # All are on one host. Results that leave early are there while their stage still learns from what came.
    still_read = (len(specs) - 1) * layout.plan.chunk if layout.leaves_early else 0
    store = sum(footprint.held(layout.window + still_read) for footprint in stores)
    groups = groups_of(job, layout)
    counts = (1,) if engine == "local" else specs[0].replicas.counts
    stages = tuple(
        estimate_stage(job, replace(of, replicas=count), layers, process)
        for layers, count in zip(groups, counts, strict=True)
    )
    disk = disk_bytes(specs, of, layout.window) if engine == "layerwise" else 0
    return Estimate(layout, stages, store, disk, of.whole_state)


def estimate_stage(job: Job, of: NetworkSizes, layers: range, process: int) -> StageEstimate:
    """Work out what a process with these layers takes."""
    engine = job.config.execution.engine
    comes = incoming(of, layers)
    held = breakdown(of, layers, sends=engine == "ray", receives=layers.start > 0)
    # Memory of a GPU is not glibc's.
    if largest_kept(job.network, job.config.execution) > LEAVES_HOLES and job.config.execution.first_device == "cpu":
        held = held._replace(buffers=round(KEPT * held.buffers))
    # A spool is mapped where it is read; it is written as a file.
    mapped = {"ray": comes + outgoing(of, layers), "layerwise": comes, "local": 0}
    data = 0 if engine == "ray" and layers.start else job.splits.most_in_sight
    return StageEstimate(layers, process, data, held, mapped[engine], comes)

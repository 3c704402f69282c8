"""The half of a config that says how a run is computed: no field changes the weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from ffpipe.config.limits import LEAST_OBJECT_STORE, MOST_SECONDS, MOST_SHARDS
from ffpipe.system.errors import UserError
from ffpipe.system.files import scheme_of
from ffpipe.system.memory import LARGEST_KEPT
from ffpipe.system.units import parse_size

# The syntax of labels and selectors that Ray accepts (its label_utils.py), after Kubernetes: 63 characters at most.
_LABEL = r"[A-Za-z0-9](?:[\w.-]{0,61}[A-Za-z0-9])?"
SELECTOR = re.compile(rf"!?{_LABEL}|!?in\({_LABEL}(?:, ?{_LABEL})*\)", re.ASCII)
# A label's name may have a prefix of host names before a slash.
LABEL_NAME = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*/)?{_LABEL}", re.ASCII)

T = TypeVar("T")

Device = Literal["cpu", "cuda"]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=MOST_SHARDS)]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings of how a run is computed. No field changes the weights."""

    engine: Annotated[
        Literal["ray", "local", "layerwise"],
        Meta(
            description="ray: one actor a stage; local: one process, the reference; layerwise: one process, one stage "
            "in memory at a time"
        ),
    ] = "ray"
    stages: Annotated[
        int,
        Meta(
            ge=0,
            description="contiguous groups of blocks; 0: ray: as many as blocks and CPUs allow; local: one; layerwise: "
            "one a block",
        ),
    ] = 0
    replicas: Annotated[
        Count | tuple[Count, ...],
        Meta(
            description="engine ray: processes that divide training.shards of each stage among them, one number or one "
            "a stage; the other engines compute all shards in one"
        ),
    ] = 1
    chunk: Annotated[int, Meta(ge=0, description="minibatches in one message; 0: chosen")] = 0
    window: Annotated[int, Meta(ge=0, description="minibatches in flight at most; 0: chosen")] = 0
    window_bytes: Annotated[
        int, Meta(ge=1 << 20, description="bytes in flight at most, for a window that is chosen")
    ] = 512 << 20
    chapter: Annotated[
        int, Meta(ge=0, description="engine layerwise: minibatches that a stage works before the next one; 0: chosen")
    ] = 0
    spool: Annotated[
        str, Meta(description="engine layerwise: folder for activations and parked stages; empty: the run folder")
    ] = ""
    spool_compression: Annotated[
        Literal["none", "lz4", "zstd"], Meta(description="engine layerwise: of activations on disk; loses nothing")
    ] = "none"
    memory_budget: Annotated[
        str,
        Meta(
            description="of each stage, as 2GiB or 800MB, on the host or on its GPU; chunk, more stages and the engine "
            "are chosen to fit, and the window for them; empty: none",
        ),
    ] = ""
    keep_freed: Annotated[
        bool,
        Meta(
            description="blocks trained by autograd: a stage keeps the memory that a step frees, for the next one; "
            "faster, but its peak is larger, grows with the number of blocks and is foretold roughly"
        ),
    ] = False
    keep_largest: Annotated[
        str,
        Meta(
            description="of the tensors that keep_freed keeps, as 4MiB; at most 32MiB. Larger ones are given back, "
            "which leaves no holes, and takes little time where steps compute for long on each number"
        ),
    ] = "32MiB"
    device: Annotated[
        Device | tuple[Device, ...], Meta(description="of every stage; engine ray: or one for each, as: cuda cuda cpu")
    ] = "cpu"
    placement: Annotated[
        Literal["pack", "spread", "one-host-each"],
        Meta(description="engine ray: stages on few hosts, over as many as there are, or no two on one"),
    ] = "pack"
    cpus: Annotated[
        Amount | tuple[Amount, ...],
        Meta(description="CPUs of each stage, one number or one a stage; 0: one, or a share where there are fewer"),
    ] = 0.0
    gpus: Annotated[
        Amount | tuple[Amount, ...],
        Meta(description="GPUs of each stage, one number or one a stage; 0: one where its device is cuda"),
    ] = 0.0
    memory: Annotated[
        str | tuple[str, ...],
        Meta(
            description="memory that each stage asks of its host, as 4GiB, one size or one a stage; Ray only counts "
            "it; empty: none"
        ),
    ] = ""
    resources: Annotated[
        dict[str, Amount | tuple[Amount, ...]],
        Meta(description="custom Ray resources of each stage, as NAME=AMOUNT, or NAME=0,1,1 with one a stage"),
    ] = field(default_factory=dict)
    labels: Annotated[
        dict[str, str | tuple[str, ...]],
        Meta(
            description="labels that the host of each stage must have, as NAME=VALUE, !VALUE or in(A,B); or "
            "NAME=A,B,A with one a stage"
        ),
    ] = field(default_factory=dict)
    data_from: Annotated[
        Literal["host", "driver"],
        Meta(
            description="host: each host of the first stage finds the data at the same path, its own copy or a shared "
            "one; driver: they are sent to it"
        ),
    ] = "host"
    # Ray itself waits in silence for what no host has.
    start_timeout: Annotated[
        float, Meta(gt=0, le=MOST_SECONDS, description="seconds to wait for the stages to be placed")
    ] = 30.0
    evaluate_every: Annotated[
        int, Meta(ge=0, description="epochs between evaluations on the validation split; 0: at the end only")
    ] = 0
    evaluate_train: Annotated[
        int, Meta(ge=0, description="training examples, the first, that are tested with each of these too; 0: none")
    ] = 0
    log_steps: Annotated[
        int, Meta(ge=0, description="steps between rows of metrics.parquet; 0: an epoch, at most 100; long runs: more")
    ] = 0
    object_store_bytes: Annotated[
        int, Meta(ge=0, description="of Ray's object store, where ffpipe starts Ray itself; 0: Ray's choice")
    ] = 0
    trace: Annotated[bool, Meta(description="write trace.json, a Chrome trace of what every stage did when")] = False
    tensorboard: Annotated[
        bool, Meta(description="write event files for TensorBoard into the folder tensorboard of the run")
    ] = False
    snapshot_steps: Annotated[
        int, Meta(ge=0, description="steps between snapshots, beside those by seconds and that at the end; 0: none")
    ] = 0
    # Not 0: a run that is killed before its first snapshot has lost everything, however long it took.
    snapshot_seconds: Annotated[
        float, Meta(ge=0, description="seconds between snapshots, beside those by steps and that at the end; 0: none")
    ] = 600.0
    checkpoints: Annotated[
        str, Meta(description="where snapshots go, a path or a URI (s3://, gs://, hdfs://); empty: the run folder")
    ] = ""
    stage_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=MOST_SECONDS,
            description="seconds after which a silent stage is taken for lost, or a message if all wait for one",
        ),
    ] = 60.0
    attempts: Annotated[
        int, Meta(ge=0, le=100, description="recoveries in a row from the same step before giving up")
    ] = 3
    back_off: Annotated[
        float, Meta(ge=0, le=3600, description="seconds to wait before a recovery, doubled each time in a row")
    ] = 1.0
    # Two: should the newest be found damaged, a resume goes on from the one before it.
    keep_snapshots: Annotated[int, Meta(ge=1, description="newest snapshots kept")] = 2
    run_dir: Annotated[str, Meta(description="folder of the run, made new; empty: runs/RECIPE-TIMESTAMP")] = ""
    data_dir: Annotated[str, Meta(description="folder with local copies of the data; empty: $FFPIPE_DATA")] = ""

    @property
    def first_device(self) -> Device:
        """Device of the first stage, and of all where they are alike."""
        return self.devices[0]

    @property
    def devices(self) -> tuple[Device, ...]:
        """Devices of the stages: one of each, or one for all."""
        return (self.device,) if isinstance(self.device, str) else self.device

    @property
    def listed(self) -> int:
        """Number of stages that fields with one value a stage speak of; 0 where there is no such field."""
        return max((len(each) for each in self._by_stage.values() if isinstance(each, tuple)), default=0)

    @property
    def _by_stage(self) -> dict[str, Any]:
        """The fields that take one value for all stages or one for each, by their names in messages."""
        fields = {name: getattr(self, name) for name in ("replicas", "device", "cpus", "gpus", "memory")}
        fields |= {f"resources.{name}": each for name, each in self.resources.items()}
        return fields | {f"labels.{name}": each for name, each in self.labels.items()}

    def check(self) -> None:
        """Refuse values that contradict each other, or that cannot be asked for."""
        # Ray has options of its own for these, and raises an error where they are among the custom ones.
        if taken := {"CPU", "GPU", "memory", "object_store_memory"} & set(self.resources):
            raise UserError(
                f"execution.resources names {min(taken)!r}, which is not a custom resource of Ray: leave it out"
            )
        _check_size("memory_budget", self.memory_budget)
        _check_size("keep_largest", self.keep_largest)
        if not self.keep_largest or parse_size(self.keep_largest) > LARGEST_KEPT:
            raise UserError(f"execution.keep_largest is {self.keep_largest!r}: give a size of at most 32MiB, as 4MiB")
        # A URI is a path too: s3:/bucket made a folder "s3:" here.
        for name in ("spool", "run_dir", "data_dir"):
            if scheme_of(given := getattr(self, name)):
                raise UserError(f"execution.{name} is {given!r}, but it is on this host: give the path of a folder")
        self._check_lists()
        for index in range(self.listed or 1):
            self._check_place(index)
        layerwise = self.engine == "layerwise" or self.memory_budget  # which may choose it
        for name, most in (("window", self.window), ("chapter", self.chapter if layerwise else 0)):
            if most and self.chunk > most:
                raise UserError(
                    f"execution.chunk is {self.chunk}, more than execution.{name} {most}: give a chunk of at most "
                    f"{most}"
                )
        if 0 < self.object_store_bytes < LEAST_OBJECT_STORE:
            raise UserError(
                f"execution.object_store_bytes is {self.object_store_bytes}, but Ray's least object store has "
                f"{LEAST_OBJECT_STORE}: give that or more, or 0 for Ray's choice"
            )

    def _check_lists(self) -> None:
        """Hold fields with one value a stage against the number of stages."""
        stages = self.stages or self.listed
        for name, each in self._by_stage.items():
            # As long as no field says how many stages there are, an empty list would have the right length.
            if each == ():
                raise UserError(f"execution.{name} is an empty list: give one value for all stages, or one for each")
            if isinstance(each, tuple) and len(each) != stages:
                raise UserError(
                    f"execution.{name} has values for {len(each)} stage(s), but there are {stages}: give one for each, "
                    "or one for all"
                )
        if isinstance(self.device, tuple) and self.engine != "ray":
            raise UserError(
                f"execution.device names {len(self.device)} devices, but engine {self.engine!r} is one process: give "
                "one device, or --engine ray"
            )

    def _check_place(self, index: int) -> None:
        """Refuse a place for one stage that cannot be asked for."""
        device, gpus = of_stage(self.device, index), of_stage(self.gpus, index)
        if device == "cpu" and gpus:
            raise UserError(f"execution.gpus is {gpus:g} with execution.device 'cpu': give --device cuda")
        if gpus > 1 and gpus != int(gpus):
            raise UserError(f"execution.gpus is {gpus:g}: give a share of one GPU, or a whole number of them")
        _check_size("memory", of_stage(self.memory, index))
        for name, value in self.labels.items():
            if not LABEL_NAME.fullmatch(name):
                raise UserError(
                    f"execution.labels has {name!r}, which is not a name of a label: give letters, digits, - _ ."
                )
            selector = of_stage(value, index)
            if selector and not SELECTOR.fullmatch(selector):
                raise UserError(
                    f"execution.labels has {selector!r} for {name!r}: give a label's value, !VALUE, in(A,B) or !in(A,B)"
                )


def of_stage(value: T | tuple[T, ...], index: int) -> T:
    """Return the value of one stage: its own, or that of all."""
    return value[index] if isinstance(value, tuple) else value


def _check_size(name: str, text: str) -> None:
    if text:
        try:
            parse_size(text)
        except ValueError as error:
            raise UserError(f"execution.{name} is {error}") from None

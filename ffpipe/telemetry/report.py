"""Reports of a stage to the driver: plain data, small, sent often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from ffpipe.config.limits import LARGEST_INTEGER, MOST_LAYERS
from ffpipe.telemetry.spans import Kind, Span

# Snapshots count steps with eight digits. Those of the classes below that a run reads back are held to their ranges.
MOST_STEPS = 99_999_999
# The most rows of metrics that one run writes: all of them are kept at hand, and written with every snapshot.
MOST_ROWS = 400_000
# How the errors of single blocks begin among those of an evaluation.
BLOCK = "block."
Steps = Annotated[int, Meta(ge=0, le=MOST_STEPS)]
# All read-outs: of networks with negatives, and of others.
SOFTMAX, GOODNESS, LAST, SUM = "softmax", "goodness", "last", "sum"
READOUTS = (GOODNESS, SOFTMAX, LAST, SUM)


def errors_by_readout(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the test error of every read-out that was tested at the end of a run, by name."""
    named = {name: summary.get(f"test_error_{name}") for name in READOUTS}
    return {name: error for name, error in named.items() if error is not None}


def format_layers(layers: Sequence[int]) -> str:
    """Spell a group of layers: 0-1, or 2; a dash where there are none."""
    if not layers:
        return "-"
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])


@dataclass(frozen=True)
class LayerRow:
    """Means over the steps of one log interval that ends after `step`; one row of metrics.parquet.

    layer: its index from 0, or -1 for the head. pair_errors: share of pairs whose negative row had the higher goodness
    (head, and blocks without negatives: share of rows that it got wrong; where steps have rows of one role: share of
    rows on the wrong side of the threshold); None where an objective does not count them. logistic_pair_errors: share
    of pairs whose negative row was the more probable to be positive; None but with `training.pair_errors logistic`.
    After the interval's last step: rate: the learning rate of that step; None where the block did not learn, or has an
    optimiser of its own. weight_rms: root mean square of its matrices and kernels. output_rms: of what it handed on of
    the rows that it learned from; None for the head. factor: the schedule's, by which that rate has been multiplied;
    None where the block did not learn. Runs of version 0.1 have none of the five.
    """

    step: Steps
    layer: Annotated[int, Meta(ge=-1, le=MOST_LAYERS)]
    loss: float
    pair_errors: float | None
    rate: float | None = None
    weight_rms: float | None = None
    output_rms: float | None = None
    factor: float | None = None
    logistic_pair_errors: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Errors of the network after `step` on one split, as fractions; None for a read-out that does not exist.

    errors: without negatives, of the read-outs "last" and "sum", and of each block as "block.INDEX". losses: of each
    block; with negatives the mean loss of positive rows, those under their right labels or without labels as they are
    (their part of the loss of a pair; none where pairs are compared), without negatives the mean cross-entropy of an
    example in nats.
    """

    step: Steps
    split: str
    examples: Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)]
    error_goodness: float | None
    error_softmax: float | None
    errors: dict[str, float | None] = field(default_factory=dict)
    losses: dict[str, float | None] = field(default_factory=dict)

    @property
    def readouts(self) -> dict[str, float]:
        """The error of every read-out that the network has, by name."""
        named = {"goodness": self.error_goodness, "softmax": self.error_softmax, **self.errors}
        return {name: e for name, e in named.items() if e is not None and not name.startswith(BLOCK)}

    @property
    def blocks(self) -> list[float | None]:
        """The error of each block by itself, without negatives; else none."""
        return [error for name, error in self.errors.items() if name.startswith(BLOCK)]


@dataclass(frozen=True)
class RecoveryNote:
    """One recovery: what happened, where the run went on, and how many steps of work were lost."""

    reason: str
    from_step: Steps
    lost_steps: Steps
    stages: Annotated[int, Meta(ge=1, le=MOST_LAYERS)]


@dataclass
class History:
    """The history of a run; past.json keeps it for who goes on.

    run: its name. data: the fingerprint of what it trains on. code: digests of the source of the user's network. place:
    the run folder when its config was written. saved: the step of the newest snapshot that it knows. All are empty, or
    0, in runs of before.
    """

    run: str = ""
    data: str = ""
    code: str = ""
    place: str = ""
    saved: Steps = 0
    rows: list[LayerRow] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    recoveries: list[RecoveryNote] = field(default_factory=list)
    train_seconds: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class WrittenFile:
    """One file of a snapshot: its SHA-256 and size, and the digest of the weights in it."""

    step: int
    name: str
    sha256: str
    size: int
    weights_sha256: str


@dataclass(frozen=True)
class ReplicaFile:
    """The digest of the weights that a replica would write into a file of a snapshot, which the first of its stage
    writes. replica: its name, as in messages."""

    step: int
    name: str
    weights_sha256: str
    replica: str


@dataclass(frozen=True)
class FailedFile:
    """One file of a snapshot that could not be written: where, and why."""

    step: int
    place: str
    reason: str


@dataclass
class StageReport:
    """The events in one stage since its last report, and its progress. replica: which of its stage it is. testing: the
    split that it tests at the moment, of which so many examples are `tested`; empty while it trains."""

    stage: int
    layers: tuple[int, ...]
    replica: int = 0
    step: int = 0
    testing: str = ""
    tested: int = 0
    began_at: float = 0.0  # when the stage began to run, in seconds since the epoch
    seconds: float = 0.0  # since the stage began to run
    train_began: float = 0.0  # of those, when its first training item began
    train_seconds: float = 0.0  # and when its latest one ended
    seconds_by_kind: dict[Kind, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    peak_device_bytes: int = 0  # of tensors on its GPU
    rows: list[LayerRow] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    files: list[WrittenFile | ReplicaFile] = field(default_factory=list)
    failures: list[FailedFile] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    @property
    def busy_share(self) -> float:
        """The share of its seconds in which the stage computed."""
        return self.seconds_by_kind.get("compute", 0.0) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Answer:
    """The answer of a stage: its reports since the last time, and for how many seconds it has waited by now."""

    reports: list[StageReport]
    waited: float = 0.0

"""A job: everything an engine needs to run a config, worked out once, before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ffpipe.config.fields import checked
from ffpipe.config.schema import Config, Training
from ffpipe.data.scale import Given
from ffpipe.data.splits import Splits, load_splits
from ffpipe.learn.augmentation import augmentation_of
from ffpipe.learn.blueprint import Blueprint, worked_out
from ffpipe.learn.feeder import refuse_other_ids, row_specs
from ffpipe.learn.normalization import Normalization, measured
from ffpipe.learn.turns import turns_of
from ffpipe.learn.user_model import ModelCode
from ffpipe.pipeline.schedule import Plan
from ffpipe.pipeline.snapshot_schema import contents_bytes, snapshot_schema
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.storage.checkpoint import HEAD, Input, TensorSpecs
from ffpipe.storage.store import Store, whole_place
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded
from ffpipe.system.memory import refuse_beyond_host
from ffpipe.telemetry.report import MOST_ROWS, MOST_STEPS, StageReport

# A person who watches sees a loss within seconds, and a row costs nothing at this rate.
LOG_STEPS = 100
# With fewer a network has hardly begun to learn.
FEW_STEPS = 100

OnReport = Callable[[StageReport], None]
Fits = Callable[[range, int], bool]


def always(layers: range, chunk: int) -> bool:
    """Return whether it is so for all layers."""
    return True


@dataclass(frozen=True)
class Model:
    """A user's network: where its function comes from, or the function itself."""

    code: ModelCode | None = None
    function: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Job:
    """A config with its data at hand and every size worked out; plain data but for `splits`.

    fits: whether there is memory for a stage of these layers, with messages of so many minibatches.
    """

    config: Config
    splits: Splits
    network: Blueprint
    fits: Fits = always

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.network)

    @property
    def steps_per_epoch(self) -> int:
        return self.network.steps_per_epoch

    @property
    def tested(self) -> dict[str, int]:
        """Examples of each split that are tested in an evaluation."""
        splits = self.splits
        train = min(self.config.execution.evaluate_train, len(splits.train))
        return {"train": train, "validation": len(splits.validation), "test": len(splits.test)}

    @property
    def minibatch_bytes(self) -> int:
        """Bytes of the largest rows of one minibatch between two blocks."""
        return self.network.layout.rows * max(edge.nbytes for edge in self.network.edges)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.config.training.epochs

    @property
    def log_steps(self) -> int:
        """Steps between rows of metrics."""
        # If steps have rows of one role, an epoch has both.
        most = self.steps_per_epoch if self.config.training.in_turns else LOG_STEPS
        return self.config.execution.log_steps or max(min(self.steps_per_epoch, most), self.least_log_steps)

    @property
    def least_log_steps(self) -> int:
        """The fewest steps between rows of metrics with which a run has no more rows than it may."""
        return math.ceil(self.steps / (MOST_ROWS // (self.layers + self.network.has_head)))

    @property
    def input(self) -> Input:
        return self.network.takes

    @property
    def least_bytes(self) -> int:
        """Bytes that must be held at once, be it in one process: the weights and what their optimisers keep (layerwise:
        of one block), the predictions that wait, and messages of the size asked for or one example's rows."""
        training, execution, network = self.config.training, self.config.execution, self.network
        # Optimisers' state is in it at any step; the predictions, which are counted below, are not there at the first.
        files = snapshot_schema(network, 0)
        sizes = [contents_bytes(contents) for name, contents in files.items() if name != HEAD]
        state = max(sizes) if execution.engine == "layerwise" else sum(sizes)
        state += contents_bytes(files.get(HEAD, {}))
        waiting = network.has_head * min(training.negative_lag, self.steps)
        waiting *= training.batch_size * network.takes.classes * 4
        messages = min(max(execution.chunk, execution.window, 1), self.steps) * self.minibatch_bytes
        tested = network.rows_of_example * max(edge.nbytes for edge in network.edges)
        return state + waiting + max(messages, tested)


@dataclass(frozen=True)
class Layout:
    """A job cut into stages: what `execution` comes to. notes: what a person should know of it. leaves_early: results
    may leave a stage while its last block still learns (pipeline/stage.py)."""

    stages: tuple[StageSpec, ...]
    plan: Plan
    window: int
    notes: tuple[str, ...] = ()
    leaves_early: bool = False

    @property
    def workers(self) -> tuple[StageSpec, ...]:
        """All replicas of all stages, in the order of their numbers."""
        return tuple(replica for spec in self.stages for replica in spec.each_replica())


@dataclass(frozen=True)
class Start:
    """The beginning of a run: at step 0, or after the step of a whole snapshot, whose files have these contents."""

    step: int = 0
    folder: str = ""
    contents: Mapping[str, TensorSpecs] = field(default_factory=dict)


class Engine(Protocol):
    """An order in which the cells of the grid (stage, item) are worked."""

    def layout(self, job: Job) -> Layout:
        """Cut the job into stages. Raises UserError where what is asked for cannot be had."""

    def layout_again(self, job: Job, store: Store) -> Layout:
        """Discard the stages and cut the job anew to what is left and reaches the snapshots. Raises StageLost where
        a stage is lost meanwhile, RunFailed where nothing does."""

    def check_store(self, store: Store) -> None:
        """See to it that the hosts of all stages reach the snapshots. Raises UserError naming one that does not."""

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        """Work the plan from `start`, calling on_report with every report.

        scratch: a folder of the run, for files that do not outlast this call.

        Raises StageLost where a stage or its host is gone, RunFailed where the program itself failed.
        """

    def interrupt(self) -> None:
        """Finish the chunk in hand, write a snapshot, and let `run` return; may be called from a signal handler."""

    def close(self) -> None:
        """Take down what the engine started."""


def make_job(
    config: Config, model: Model | None = None, work_out: Callable[[Blueprint], Blueprint] = worked_out
) -> Job:
    """Load the data of a checked config and hold the config against it. model: the user's, where it has one. work_out:
    finds the outlines of the network.

    Raises UserError.
    """
    # As it was given: a refusal is to name the setting, which may be the variable.
    data_dir = config.execution.data_dir
    config = _with_whole_paths(config)
    splits = load_splits(config.training.data, data_dir)
    training = config.training
    # A width of 0 stands for as many features as the data have.
    training = replace(training, dims=(training.dims[0] or splits.features, *training.dims[1:]))
    if training.standardize and not (training.mean and training.deviation):
        mean, deviation = measured(splits.train, splits.shape)
        training = replace(training, mean=training.mean or mean, deviation=training.deviation or deviation)
    config = replace(config, training=training)
    _check_images(training, splits)
    turns = turns_of(training, splits)
    inputs, labels = row_specs(training, splits.shape, splits.classes)
    # A user of a known set has pictures, and does not know the numbers behind them.
    given = splits.given if training.data.train else Given()
    takes = Input(splits.shape, inputs.size, splits.classes, splits.names, given)
    model = model or Model()
    steps, code = turns.steps_per_epoch, (model.code, model.function)
    network = work_out(Blueprint(training, takes, inputs, labels, steps, *code, positive_steps=turns.positive))
    job = Job(config, splits, network)
    stages = config.execution.stages or config.execution.listed
    if stages > job.layers:
        raise UserError(f"execution.stages is {stages}, but there are {job.layers} layers: give 1 to {job.layers}")
    if job.steps > MOST_STEPS:
        raise UserError(
            f"training.epochs is {training.epochs} of {job.steps_per_epoch} steps each, more than {MOST_STEPS:,}: "
            f"give at most {MOST_STEPS // job.steps_per_epoch}"
        )
    if job.log_steps < job.least_log_steps:
        raise UserError(
            f"execution.log_steps is {job.log_steps}: with a row for each layer every so many of {job.steps:,} steps "
            f"there are more than {MOST_ROWS:,} rows of metrics: give at least {job.least_log_steps}"
        )
    return job


def _check_images(training: Training, splits: Splits) -> None:
    """Hold what is done to examples against their shape. Raises UserError."""
    features, classes, shape = splits.features, splits.classes, splits.shape
    if not (training.model or training.blocks) and training.dims[0] != features:
        raise UserError(
            f"training.dims starts with {training.dims[0]}, but an image of {training.data.source!r} has "
            f"{features} features: give {' '.join(map(str, (features, *training.dims[1:])))}"
        )
    if classes < 2:
        raise UserError(f"training.data has {classes} class: there is nothing to tell apart, give at least 2")
    if training.contrasts and training.read_labels == "overlay" and classes > features:
        instead = "training.labels append" if training.labelled else "training.test_labels none"
        raise UserError(f"{classes} labels do not fit over {features} features: set {instead}")
    if training.inputs == "tokens":
        # Each token is to predict the next one, so that the last of a row is a label alone.
        if features < 2:
            raise UserError("training.inputs is 'tokens', but an example has one value: give rows of 2 tokens or more")
        if not splits.is_text:  # whose ids are counted where it is read
            refuse_other_ids(splits)
        return
    if training.labelled and training.labels == "planes" and len(shape) < 2:
        raise UserError(f"training.labels 'planes' are channels of images, but an example has the shape {shape}")
    augmentation_of(training).check(shape)
    if training.standardize:
        Normalization(training.mean, training.deviation).check(shape)
    if training.negatives == "hybrid" and len(shape) < 2:
        raise UserError(f"training.negatives 'hybrid' mixes images, but an example has the shape {shape}")


def few_steps(job: Job) -> tuple[str, ...]:
    """Say in a line that a job has few steps, as small data in large minibatches have; return nothing where it does
    not."""
    if job.steps >= FEW_STEPS:
        return ()
    return (
        f"{job.steps:,} steps in all are few: an epoch has {job.steps_per_epoch:,}, each on "
        f"{job.config.training.batch_size:,} examples; more epochs or smaller minibatches make more (--epochs, "
        "--training.batch-size)",
    )


def refuse_beyond_this_host(job: Job) -> None:
    """Refuse a job that no engine could hold here. A cluster that is joined is asked later."""
    if job.config.execution.engine != "ray" or not os.environ.get("RAY_ADDRESS"):
        refuse_beyond_host(job.least_bytes, "this config", "give smaller training.dims, training.batch_size or window")


def _with_whole_paths(config: Config) -> Config:
    """Name files from the root, so that other processes, and a later one elsewhere, find the same. Raises UserError
    where these names cannot be written down."""
    data, data_dir = config.training.data, config.execution.data_dir or os.environ.get("FFPIPE_DATA", "")
    data = replace(data, train=tuple(map(whole_place, data.train)), test=tuple(map(whole_place, data.test)))
    execution = config.execution
    execution = replace(
        execution,
        data_dir=data_dir and str(expanded(data_dir).absolute()),
        spool=execution.spool and str(expanded(execution.spool).absolute()),
        # Made here once, so that a place which cannot be one is refused before data are loaded.
        checkpoints=execution.checkpoints and Store(whole_place(execution.checkpoints)).root,
        run_dir=execution.run_dir and str(expanded(execution.run_dir)),
    )
    return checked(replace(config, training=replace(config.training, data=data), execution=execution))

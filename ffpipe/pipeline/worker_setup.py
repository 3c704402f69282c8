"""The parts that a worker is given (WorkerSetup), and how its stage and, in the first stage, its feed are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ffpipe.config.schema import Config, Execution
from ffpipe.data.splits import Splits, splits_from
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.negatives import Predictions
from ffpipe.learn.shards import Exchange
from ffpipe.learn.workspace import OutputsInTurn, Workspace
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import Start
from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.publisher import OUTPUTS
from ffpipe.pipeline.saver import Saver, State
from ffpipe.pipeline.schedule import Item, ItemStream, Plan
from ffpipe.pipeline.snapshot_schema import predictions_in
from ffpipe.pipeline.stage import Leave, Stage
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import UserError
from ffpipe.system.memory import give_back_at_once, keep_freed
from ffpipe.system.units import parse_size
from ffpipe.telemetry.report import StageReport


class AnyStage(Protocol):
    """A stage as a worker needs it; `Stage`, or one whose layers take a set time."""

    device: torch.device

    def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None: ...

    def predictions(self, item: Item) -> Predictions: ...

    def report(self) -> StageReport: ...


class ReplicatedStage(AnyStage, Protocol):
    """A stage with several replicas, as a worker needs it."""

    def join(self, exchange: Exchange) -> None: ...


class AnyFeed(Protocol):
    """A feed as a worker needs it."""

    def take_predictions(self, made: Predictions) -> None: ...

    def tensors(self, item: Item) -> Tensors | None: ...


@dataclass(frozen=True)
class WorkerSetup:
    """The parts that a worker is made from.

    data_files: what was sent to the host of a worker of the first stage (supply.py). data: the fingerprint of what the
    run trains on, for who reads that again. leaves_early: results may leave while the last block of the stage still
    learns.
    """

    spec: StageSpec
    plan: Plan
    window: int
    config: Config
    store: Store
    start: Start
    data_files: tuple[str, ...] = ()
    data: str = ""
    leaves_early: bool = False


def largest_kept(network: Blueprint, execution: Execution) -> int:
    """Return the bytes of the largest tensors that processes keep when a step frees them, as a config may ask for:
    blocks trained by autograd take in each step what they freed in the last. 0: none, since dense layers in closed form
    have nothing of it, and a budget leaves no room."""
    if not execution.keep_freed or network.is_closed_form or execution.memory_budget:
        return 0
    return parse_size(execution.keep_largest)


def set_allocator(network: Blueprint, execution: Execution) -> None:
    """Choose what becomes of memory that steps free."""
    if largest := largest_kept(network, execution):
        keep_freed(largest)
    else:
        give_back_at_once()


def make_stage(
    setup: WorkerSetup, saver: Saver, workspace: Workspace | None = None, outputs: OutputsInTurn | None = None
) -> Stage:
    """Make the stage of a real network, as it was after the snapshot that the run starts from.

    workspace, outputs: of those that compute in turn with it.
    """
    stage = Stage(setup.spec, saver.save, workspace, outputs)
    if setup.start.folder:
        stage.restore(setup.start.step, _reader(setup))
    return stage


def make_own_stage(setup: WorkerSetup, saver: Saver) -> Stage:
    """Make the same stage with three output buffers that are used in turn (one in the last stage): for links that have
    copied what they send before they return."""
    workspace = Workspace(torch.device(setup.spec.device))
    # Nothing leaves the last stage, so that its one buffer is free again with the next item.
    return make_stage(setup, saver, workspace, OutputsInTurn(workspace, 1 if setup.spec.is_last else OUTPUTS))


def make_feed(setup: WorkerSetup, splits: Splits) -> AnyFeed:
    """Make the feed, with the predictions that the snapshot has for it."""
    feed = Feed(setup.spec.network, splits, torch.device(setup.spec.device), setup.spec.shards)
    if setup.start.folder and setup.spec.network.has_head:
        feed.take_predictions(predictions_in(_reader(setup)(checkpoint.HEAD)))
    return feed


def make_own_feed(setup: WorkerSetup) -> AnyFeed:
    """Make the same feed, from the data as they are read here. Raises UserError where they are no longer those of the
    run."""
    config = setup.config
    splits = splits_from(config.training.data, config.execution.data_dir, setup.data_files)
    # The driver has read them too, but perhaps on another host, or before somebody changed them.
    if splits.fingerprint != setup.data:
        raise UserError("training.data: what is read now is not what the run began with")
    return make_feed(setup, splits)


def _reader(setup: WorkerSetup) -> Callable[[str], State]:
    """Return a function that reads a file of the snapshot that the run starts from."""
    store, folder = setup.store, setup.start.folder
    # Once for all files, which a stage then reads one at a time: it holds no second copy of all its state.
    manifest = store.with_retries(lambda: checkpoint.read_manifest(store, folder))
    return lambda name: store.with_retries(
        lambda: checkpoint.read_tensors(store, folder, manifest, name, setup.start.contents[name])
    )


@dataclass(frozen=True)
class Parts:
    """The functions by which a worker makes its stage, its feed, its item stream and its saver."""

    stage: Callable[[WorkerSetup, Saver], AnyStage] = make_stage
    feed: Callable[[WorkerSetup], AnyFeed] = make_own_feed
    stream: Callable[[Plan, int, float, Callable[[], float]], ItemStream] = ItemStream
    saver: Callable[[Store], Saver] = Saver

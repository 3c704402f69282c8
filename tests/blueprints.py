"""Networks and their stages for tests that run no engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ffpipe.config.schema import Training
from ffpipe.data.splits import Splits
from ffpipe.learn.blueprint import Blueprint, make_blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.schedule import Item
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.storage.checkpoint import Input


class Joined(nn.Module):
    """A dense layer on its rows beside all that it uses of earlier blocks."""

    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(fan_in, width)

    def forward(self, x: Tensor, *kept: Tensor) -> Tensor:
        made: Tensor = torch.relu(self.layer(torch.cat([x, *kept], 1)))
        return made


def blueprint_of(
    training: Training,
    shape: tuple[int, ...] = (),
    classes: int = 10,
    steps_per_epoch: int = 10,
    function: Callable[..., Any] | None = None,
) -> Blueprint:
    """Make the network that a config describes. shape: of one example; none: as flat as `training.dims` has it.

    function: a user's, which returns the blocks; `training.model` is then to be set.
    """
    shape = shape or (training.dims[0],)
    inputs, labels = row_specs(training, shape, classes)
    takes = Input(shape, inputs.size, classes)
    return make_blueprint(training, takes, inputs, labels, steps_per_epoch, function=function)


def blueprint_for(training: Training, splits: Splits) -> Blueprint:
    """Make the network that a config describes for these data."""
    return blueprint_of(training, splits.shape, splits.classes, len(splits.train) // training.batch_size)


def make_stages(network: Blueprint, groups: Sequence[range], steps: int = 100) -> list[Stage]:
    """Make the stages of a network that is cut into these groups of blocks; none writes snapshots."""
    return [
        Stage(StageSpec(index, tuple(groups), network, steps, steps, "cpu"), lambda *_: None)
        for index in range(len(groups))
    ]


def hand_through(stages: Sequence[Stage], item: Item, tensors: Tensors | None) -> list[Tensors]:
    """Work one item in every stage in turn, as the local engine does. Returns what each stage got."""
    incoming: dict[int, Tensors] = {0: tensors or {}}
    got: list[Tensors] = []
    for index, stage in enumerate(stages):
        got.append(incoming.pop(index, {}))
        made = stage.handle(item, got[-1] or None)
        for receiver, part in stage.spec.routes.parts(index, made or {}).items():
            incoming.setdefault(receiver, {}).update(part)
    return got

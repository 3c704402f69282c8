"""A stage before it exists: plain data, from which any host makes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ffpipe.config.schema import Training
from ffpipe.learn.blueprint import Blueprint
from ffpipe.pipeline.routes import Routes


@dataclass(frozen=True)
class StageSpec:
    """What a stage is made from: plain data that can be sent to any host.

    groups: the blocks of every stage, counted from 0. steps: of the whole run. log_steps: between rows of metrics.
    """

    index: int
    groups: tuple[range, ...]
    network: Blueprint
    steps: int
    log_steps: int
    device: str

    @property
    def stages(self) -> int:
        return len(self.groups)

    @property
    def layers(self) -> range:
        """The blocks of this stage."""
        return self.groups[self.index]

    @property
    def training(self) -> Training:
        return self.network.training

    @property
    def is_last(self) -> bool:
        return self.index == self.stages - 1

    @cached_property
    def routes(self) -> Routes:
        """What goes from which stage to which."""
        return Routes.of(self.network, self.groups)

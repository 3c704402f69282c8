"""A stage before it exists: plain data, from which any host makes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ffpipe.config.schema import Training
from ffpipe.learn.blueprint import Blueprint
from ffpipe.pipeline.replicas import Replicas
from ffpipe.pipeline.routes import Routes


@dataclass(frozen=True)
class StageSpec:
    """The description of a stage: plain data that can be sent to any host.

    groups: the blocks of every stage, counted from 0. steps: of the whole run. log_steps: between rows of metrics.
    counts: replicas of every stage; none given: one each. replica: which of this stage's it is.
    """

    index: int
    groups: tuple[range, ...]
    network: Blueprint
    steps: int
    log_steps: int
    device: str
    counts: tuple[int, ...] = ()
    replica: int = 0

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
    def replicas(self) -> Replicas:
        """The replicas of all stages."""
        return Replicas(self.training.shards, self.counts or (1,) * self.stages)

    @property
    def shards(self) -> range:
        """The shards of a minibatch that this replica computes."""
        return self.replicas.own(self.index, self.replica)

    def each_replica(self) -> list[StageSpec]:
        """Return the specs of all replicas of this stage."""
        return [replace(self, replica=replica) for replica in range(self.replicas.counts[self.index])]

    def __str__(self) -> str:
        """Name the stage, or one replica of it, as messages do."""
        replica = f", replica {self.replica}" if self.replicas.counts[self.index] > 1 else ""
        return f"stage {self.index}{replica} (layers {self.layers.start} to {self.layers.stop - 1})"

    @cached_property
    def routes(self) -> Routes:
        """The routes between stages."""
        return Routes.of(self.network, self.groups)

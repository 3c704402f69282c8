"""Replicas: who of a stage computes which shards, and so which rows go from whom to whom. Plain numbers.

    4 shards; stage 0 has 2 replicas, stage 1 has 4, stage 2 has 1

    replica 0 (shards 0 1) ──0──► replica 0 ──┐
                           ──1──► replica 1 ──┤
    replica 1 (shards 2 3) ──2──► replica 2 ──┼──► replica 0 (shards 0 1 2 3)
                           ──3──► replica 3 ──┘

The rows of a minibatch lie shard by shard, so that those of neighbouring shards are one piece. Replicas are numbered
through all stages: those of stage 0 first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ffpipe.config.schema import Execution, of_stage


def replicas_of(execution: Execution, stages: int) -> tuple[int, ...]:
    """Return the number of replicas of every stage."""
    return tuple(of_stage(execution.replicas, index) for index in range(stages))


def smaller_and_smaller(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Give these numbers of replicas, then ever fewer: of the stages that have most the first one gets half of them,
    and last there are fewer stages.

    >>> list(smaller_and_smaller((2, 2)))
    [(2, 2), (1, 2), (1, 1), (1,)]
    """
    while counts:
        yield counts
        at = counts.index(max(counts))
        # A half is the next smaller number that divides the shards, since these are a power of 2. In the first stage
        # it spares most: each replica makes the rows of whole minibatches there.
        counts = (*counts[:at], counts[at] // 2, *counts[at + 1 :]) if counts[at] > 1 else counts[:-1]


@dataclass(frozen=True)
class Replicas:
    """Numbers of replicas. shards: of a minibatch. counts: of each stage; each divides the shards."""

    shards: int
    counts: tuple[int, ...]

    def own(self, stage: int, replica: int) -> range:
        """Return the shards of one replica."""
        each = self.shards // self.counts[stage]
        return range(replica * each, (replica + 1) * each)

    def others(self, stage: int, replica: int) -> list[int]:
        """Return the other replicas of a stage."""
        return [other for other in range(self.counts[stage]) if other != replica]

    def number(self, stage: int, replica: int) -> int:
        """Number a replica among those of all stages."""
        return sum(self.counts[:stage]) + replica

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give the stage and the replica of each number."""
        return ((stage, replica) for stage, count in enumerate(self.counts) for replica in range(count))

    def sent(self, sender: int, replica: int, receiver: int) -> dict[int, range]:
        """Return the shards that a replica of a stage sends to each replica of another stage, by the latter."""
        own = self.own(sender, replica)
        found = {}
        for other in range(self.counts[receiver]):
            theirs = self.own(receiver, other)
            both = range(max(own.start, theirs.start), min(own.stop, theirs.stop))
            if both:
                found[other] = both
        return found

    def senders(self, receiver: int, replica: int, sender: int) -> list[int]:
        """Return the replicas of a stage that send to one replica of another, in the order of their shards."""
        return [other for other in range(self.counts[sender]) if replica in self.sent(sender, other, receiver)]

"""The routes of a stage's tensors to other stages: the one place that knows.

    stage 0 ──x, labels, score──► stage 1 ──x, labels, score──► stage 2     and so on, to the next
       ├──kept.a────────────────────────────────────────────────►           to the stage of each block that uses it
       └──tap.0─────────────────────────────────────────────────►           to the last, which has the read-out

What the last block before a stage hands on is that stage's x, and does not go there a second time under another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from ffpipe.learn.blueprint import Blueprint
from ffpipe.pipeline.packet import KEPT, TAP

T = TypeVar("T")


@dataclass(frozen=True)
class Routes:
    """groups: the blocks of each stage. taps: blocks whose outputs the read-out sees. made, used: of the outputs that
    are kept, the block that makes each and the blocks that use it, by name."""

    groups: tuple[range, ...]
    taps: frozenset[int] = frozenset()
    made: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Blueprint, groups: tuple[range, ...]) -> Routes:
        """Return the routes of a network that is cut so."""
        users = [(name, outline.index) for outline in network.outlines for name in outline.use]
        used = {name: tuple(index for each, index in users if each == name) for name in network.kept}
        return cls(groups, frozenset(network.taps), network.kept, used)

    @cached_property
    def _straight(self) -> dict[tuple[int, int], tuple[str, ...]]:
        """Names of what goes from a stage to a later one beside x and what goes with it."""
        last = len(self.groups) - 1
        wanted = [(f"{TAP}{block}", block, {last}) for block in sorted(self.taps)]
        for name, block in self.made.items():
            wanted.append((f"{KEPT}{name}", block, {self.stage_of(user) for user in self.used.get(name, ())}))
        found: dict[tuple[int, int], list[str]] = {}
        for name, block, receivers in wanted:
            sender = self.stage_of(block)
            for receiver in receivers:
                # Within a stage it stays in memory (passage.py).
                if receiver > sender and not self.is_x(block, receiver):
                    found.setdefault((sender, receiver), []).append(name)
        return {edge: tuple(names) for edge, names in found.items()}

    def stage_of(self, block: int) -> int:
        """Return the stage that has a block."""
        return next(stage for stage, group in enumerate(self.groups) if block in group)

    def is_x(self, block: int, stage: int) -> bool:
        """Return whether what a block hands on comes to a stage as its x."""
        return block == self.groups[stage].start - 1

    def names(self, sender: int, receiver: int) -> tuple[str, ...]:
        """Return what goes from a stage to another beside x and its companions."""
        return self._straight.get((sender, receiver), ())

    def receivers(self, sender: int) -> tuple[int, ...]:
        """Return the stages that get something of every message of a stage: the next one, then others."""
        # The next one gets a packet of every item, be it empty: markers and the order of items travel in these.
        following = [sender + 1] if sender + 1 < len(self.groups) else []
        return tuple(following + sorted(r for s, r in self._straight if s == sender and r != sender + 1))

    def senders(self, receiver: int) -> tuple[int, ...]:
        """Return the stages that send a stage a part of every message."""
        return tuple(s for s in range(receiver) if s == receiver - 1 or (s, receiver) in self._straight)

    def leaving(self, stage: int) -> tuple[str, ...]:
        """Return what a stage has to hand out beside x and its companions, whoever gets it."""
        names = [name for receiver in self.receivers(stage) for name in self.names(stage, receiver)]
        return tuple(dict.fromkeys(names))

    def parts(self, sender: int, made: Mapping[str, T]) -> dict[int, dict[str, T]]:
        """Return what each receiver gets of the output of a stage, by receiver; the part may be empty."""
        straight, found = set(self.leaving(sender)), {}
        for receiver in self.receivers(sender):
            wanted = set(self.names(sender, receiver))
            if receiver == sender + 1:  # it gets all that has no route of its own: x, labels, sums of an evaluation
                wanted |= made.keys() - straight
            found[receiver] = {name: value for name, value in made.items() if name in wanted}
        return found

"""Chapters of the layerwise engine: what is in one, and how long it may be, by arithmetic on what it leaves on disk."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ffpipe.pipeline.schedule import Flow, Item, Plan, Stop
from ffpipe.pipeline.stage import StageSpec
from ffpipe.planning.account import Sizes, beside_bytes

# Of the room on a disk beside snapshots, what a run takes at most: metrics, and what others write, are to fit there.
SHARE = 0.8


def chapter_of(items: Iterator[Item], plan: Plan, chapter: int) -> Iterator[Item]:
    """The items of one chapter, as they are taken: as many as may be in flight at once in a window of its length."""
    flow = Flow(chapter)
    for item in items:
        flow.sent(plan.weight(item))
        yield item
        if isinstance(item, Stop) or not flow.may_send(plan.chunk):
            return


def parked_bytes(of: Sizes) -> int:
    """Of all stages, each in a file while another works."""
    return of.whole_state


def spooled_bytes(specs: Sequence[StageSpec], of: Sizes) -> int:
    """Of one minibatch of a chapter: what a stage reads and what it writes, and what waits for later stages."""
    network = of.network
    rows = [network.layout.rows * network.edges[spec.layers.stop].nbytes for spec in specs[:-1]]
    # The file of the last row is still there when the first row of the next chapter is written (spoolfiles.py).
    before = rows[-1] if len(rows) > 1 else 0
    widest = max((a + b for a, b in pairwise([before, *rows])), default=0)
    # An evaluation of rows without labels has nothing but examples, and the read-out sees all of them.
    seen = network.layout.batch if network.training.labelled else network.layout.rows
    waiting = [  # for each receiver in a file of its own
        name
        for spec in specs
        for receiver in spec.routes.receivers(spec.index)
        for name in spec.routes.names(spec.index, receiver)
    ]
    return widest + sum(beside_bytes(network, name, network.layout.rows, seen) for name in waiting)


def disk_bytes(specs: Sequence[StageSpec], of: Sizes, chapter: int) -> int:
    """That a run has on disk at most, snapshots aside."""
    return parked_bytes(of) + chapter * spooled_bytes(specs, of)


@dataclass(frozen=True)
class Snapshots:
    """Those that a run writes to the disk on which its spool is.

    kept: whole ones at most. there: whole ones that are there already. first, last: the steps from and to which the run
    goes. every: steps between two; 0: at the end only. timed: whether there are more, when it is time.
    """

    kept: int
    there: int
    first: int
    last: int
    every: int
    timed: bool

    def to_come(self, chapter: int) -> int:
        """That are there at most beside those that are there now.

        The stages write in turn, so that all snapshots of a chapter are there in part before the first of them is
        whole and an old one goes. How many it will be time for in a chapter nobody knows: one.
        """
        in_turn, of_chapter = 0, 0
        if self.every:
            in_turn = self.last // self.every - self.first // self.every
            of_chapter = math.ceil(chapter / (self.every + 1))
        at_the_end = self.last > self.first and (not self.every or self.last % self.every > 0)
        most = max(0, self.kept - self.there) + of_chapter + at_the_end + self.timed
        left = in_turn + at_the_end
        return most if left and self.timed else min(most, left)


def needed_bytes(specs: Sequence[StageSpec], of: Sizes, chapter: int, snapshots: Snapshots | None) -> int:
    """That have to be free for chapters of so many minibatches. snapshots: None where they go to another disk."""
    to_come = snapshots.to_come(chapter) if snapshots else 0
    # A snapshot has what is parked: all that a stage is.
    return math.ceil(disk_bytes(specs, of, chapter) / SHARE) + to_come * parked_bytes(of)


def longest_chapter(needed: Callable[[int], int], free: int, most: int) -> int:
    """Of chapters of up to `most` minibatches, the longest for which so many free bytes are enough; 0 for none.

    needed: bytes for a chapter, by its length.
    """
    return bisect.bisect_right(range(1, most + 1), free, key=needed)

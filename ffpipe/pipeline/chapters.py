"""How long a chapter of the layerwise engine may be: as arithmetic on what it leaves on disk between two rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ffpipe.ff.precision import PRECISIONS
from ffpipe.pipeline.account import Sizes
from ffpipe.pipeline.stage import StageSpec

# Of the room on a disk, what a run takes at most: snapshots and metrics are to fit beside it.
SHARE = 0.8


def parked_bytes(of: Sizes) -> int:
    """Of all stages, each in a file while another works."""
    return sum(size for size, _ in of.files.values())


def spooled_bytes(specs: Sequence[StageSpec], of: Sizes) -> int:
    """Of one minibatch of a chapter: what a stage reads and what it writes, and what waits for the head."""
    training = of.training
    product = PRECISIONS[training.precision].products.itemsize
    rows = [of.rows * of.widths[spec.layers.stop] for spec in specs[:-1]]
    # The file of the last row is still there when the first row of the next chapter is written (spoolfiles.py).
    before = rows[-1] if len(rows) > 1 else 0
    widest = max((a + b for a, b in pairwise([before, *rows])), default=0)
    # An evaluation of rows without labels has nothing but images, and the head sees all of them.
    seen = training.batch_size if training.labelled else of.rows
    waiting = sum(of.widths[i + 1] for spec in specs[:-1] for i in spec.features) * seen
    return (widest + waiting) * product


def longest_chapter(specs: Sequence[StageSpec], of: Sizes, free: int) -> int | None:
    """Minibatches for which a disk with so many free bytes has room; None where there is only one stage."""
    each = spooled_bytes(specs, of)
    return max(0, int(free * SHARE) - parked_bytes(of)) // each if each else None


def disk_bytes(specs: Sequence[StageSpec], of: Sizes, chapter: int) -> int:
    """That a run has on disk at most, snapshots aside."""
    return parked_bytes(of) + chapter * spooled_bytes(specs, of)

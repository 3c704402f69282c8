"""How long a chapter may be, by arithmetic on the disk."""

from __future__ import annotations

from ffpipe import override, recipe
from ffpipe.pipeline.account import sizes
from ffpipe.pipeline.chapters import SHARE, disk_bytes, longest_chapter, parked_bytes, spooled_bytes
from ffpipe.pipeline.job import make_job, make_layout

BATCH, PARTS = 50, 3


def test_what_lies_between_rows_is_what_a_stage_reads_and_writes_and_what_the_head_waits_for() -> None:
    job = make_job(override(recipe("digits"), {"training.dims": [64, 30, 50, 40, 20]}))
    specs = make_layout(job, 4).stages
    of = sizes(specs[0], job.splits.shape, 1)
    # Beside the rows that stage 1 reads and writes, layer 1's neutral rows wait for the last stage; layer 0 is not
    # seen, layer 2 comes as rows.
    assert spooled_bytes(specs, of) == 4 * BATCH * (PARTS * (50 + 40) + 50)
    assert parked_bytes(of) > 4 * 2 * (64 * 30 + 30 * 50 + 50 * 40 + 40 * 20)


def test_the_longest_chapter_fits_and_one_more_minibatch_does_not() -> None:
    job = make_job(override(recipe("digits"), {"training.dims": [64, 30, 50, 40, 20]}))
    specs = make_layout(job, 4).stages
    of = sizes(specs[0], job.splits.shape, 1)
    for free in (10**6, 10**7, 10**9):
        chapter = longest_chapter(specs, of, free)
        assert chapter is not None
        assert disk_bytes(specs, of, chapter) <= free * SHARE < disk_bytes(specs, of, chapter + 1)
    assert longest_chapter(specs, of, 1000) == 0


def test_a_single_stage_leaves_nothing_between_rows() -> None:
    job = make_job(recipe("digits"))
    layout = make_layout(job, 1)
    assert longest_chapter(layout.stages, sizes(layout.stages[0], job.splits.shape, 1), 0) is None

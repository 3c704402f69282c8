"""The layerwise engine's files take no more than what was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from covering import in_turn

from ffpipe import override, recipe
from ffpipe.engines.layerwise.engine import LayerwiseEngine
from ffpipe.engines.layerwise.spool import Spool
from ffpipe.pipeline.job import Start, make_job
from ffpipe.pipeline.packet import Arrays
from ffpipe.planning.layerwise import disk_bytes
from ffpipe.planning.memory import NetworkSizes
from ffpipe.storage.store import Store

BLOCK = 4096
WIDE, NARROW = 400, 40
ROWS = {
    "two stages": [64, WIDE, WIDE],
    "three stages, the first wide": [64, WIDE, NARROW, WIDE],
    "four stages": [64, WIDE, WIDE, WIDE, WIDE],
    "five stages, the first and the last but one wide": [64, WIDE, NARROW, WIDE, WIDE, NARROW],
    "seven stages, ever wider": [64, 40, 80, 120, 160, 320, 640, 40],
    "seven stages, ever narrower": [64, 640, 320, 160, 120, 80, 40, 40],
}


def occupied(folder: Path) -> int:
    """Return the bytes on disk of all in a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


UNLABELLED = {"training.labels": "none", "training.negatives": "hybrid"}
FIELDS: dict[str, dict[str, Any]] = {
    "labelled": {},
    "unlabelled": UNLABELLED,
    "unlabelled, a chapter of evaluation alone": UNLABELLED
    | {"training.batch_size": 10, "training.data.train_limit": 120},
    "read by the head alone": {"training.readout": "softmax"},
    "an image with more rows than a chunk": {
        "training.batch_size": 2,
        "training.data.train_limit": 120,
        "execution.chunk": 1,
    },
}


@pytest.mark.parametrize(("rows", "fields"), in_turn(ROWS, FIELDS))
def test_three_chapters_take_no_more_than_predicted(rows: str, fields: str, tmp_path: Path) -> None:
    dims = ROWS[rows]
    check({"training.dims": dims, **FIELDS[fields]}, len(dims) - 1, tmp_path)


@pytest.mark.parametrize("fields", [{}, {"training.negatives": "none"}], ids=["labelled", "without negatives"])
def test_outputs_that_are_kept_for_later_stages_are_counted(fields: dict[str, Any], tmp_path: Path) -> None:
    wide = {"kind": "dense", "options": {"width": WIDE}}
    narrow = {"kind": "dense", "options": {"width": NARROW}}
    skipping = [wide | {"keep": "wide"}, narrow | {"keep": "narrow"}, narrow, wide | {"use": ["narrow"]}]
    skipping += [wide | {"use": ["wide"]}, wide | {"use": ["wide"]}]
    check({"training.blocks": skipping, **fields}, len(skipping), tmp_path)


def check(fields: dict[str, Any], stages: int, tmp_path: Path) -> None:
    """Train with a block a stage, and hold what is on disk at any time against what was predicted."""
    execution = {
        "engine": "layerwise",
        "stages": stages,
        "chapter": 12,
        "chunk": 4,
        "spool": str(tmp_path / "spool"),
    }
    plain = {f"execution.{name}": value for name, value in execution.items()}
    plain |= {
        "training.head_from": 1,
        "training.epochs": 2,
        "training.data.train_limit": 600,
        "execution.evaluate_every": 1,
    }
    job = make_job(override(recipe("digits"), {**plain, **fields}))
    most = messages = 0

    class Watched(Spool):
        def write(self, message: int, arrays: Arrays) -> None:
            nonlocal most, messages
            super().write(message, arrays)
            most, messages = max(most, occupied(tmp_path / "spool")), max(messages, message + 1)

    class Engine(LayerwiseEngine):
        spool = Watched

    engine = Engine()
    layout = engine.layout(job)
    of = NetworkSizes(job.network, layout.plan.chunk)
    engine.run(job, layout, Store(str(tmp_path / "store")), Start(), tmp_path, lambda report: None)
    # Names, labels and checksums of each array, and the last block of each file.
    details = messages * 4096 * len(layout.stages) + 2 * BLOCK * len(layout.stages)
    predicted = disk_bytes(layout.stages, of, layout.window)
    assert predicted / 2 < most
    assert most <= predicted + details

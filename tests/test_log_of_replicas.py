"""The log of a run with replicas: whose weights differ, and the memory of the largest process of each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffpipe import override, recipe
from ffpipe.pipeline.job import make_job
from ffpipe.planning.layout import make_layout
from ffpipe.runs.folder import new_run
from ffpipe.runs.log import RunLog
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.system.errors import ReplicasDiffer
from ffpipe.telemetry.report import History, ReplicaFile, StageReport, WrittenFile

FIELDS: dict[str, Any] = {"training.shards": 4, "training.batch_size": 100, "training.dims": [64, 20, 10]}


def log_of(folder: Path, counts: tuple[int, ...]) -> RunLog:
    config = override(recipe("digits"), {**FIELDS, "execution.run_dir": str(folder)})
    run = new_run(config)
    run.make()
    job = make_job(replace(config, training=replace(config.training, head=False, negatives="random")))
    log = RunLog(job, run, run.store(config), View(), History(), None, asked_at=0.0)
    log.begin(make_layout(job, len(counts), counts=counts))
    return log


FIRST, SECOND, THIRD, FOURTH = (f"stage 1, replica {replica} (layers 1 to 1)" for replica in range(4))


@pytest.mark.parametrize(
    ("digests", "says"),
    [
        ("ab", f"{FIRST} and {SECOND} had different weights"),
        ("aaba", f"{THIRD} had other weights than the other 3 replicas"),
        ("baaa", f"{FIRST} had other weights than the other 3 replicas"),
        ("aabc", f"{THIRD} and {FOURTH} had other weights than the other 2 replicas"),
        ("abba", f"{FIRST} and {SECOND} and {THIRD} and {FOURTH} had different weights"),
    ],
)
def test_the_few_that_differ_are_named(digests: str, says: str, tmp_path: Path) -> None:
    log = log_of(tmp_path / "run", (1, len(digests)))
    log.take(StageReport(0, (0,), files=[WrittenFile(7, checkpoint.layer_file(0), "", 1, "same")]))
    name = checkpoint.layer_file(1)
    reports = [StageReport(1, (1,), files=[WrittenFile(7, name, "", 1, digests[0])])]
    for replica, digest in enumerate(digests[1:], 1):
        spec = f"stage 1, replica {replica} (layers 1 to 1)"
        reports.append(StageReport(1, (1,), replica, files=[ReplicaFile(7, name, digest, spec)]))
    for report in reversed(reports[1:]):
        log.take(report)
    with pytest.raises(ReplicasDiffer) as caught:
        log.take(reports[0])
    assert str(caught.value).startswith(f"{says} after step 7: ")


def test_the_memory_of_a_stage_is_that_of_its_largest_process(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run", (2, 1))
    log.take(StageReport(0, (0,), 0, peak_rss_bytes=10, peak_device_bytes=4))
    log.take(StageReport(0, (0,), 1, peak_rss_bytes=30, peak_device_bytes=2))
    log.take(StageReport(0, (0,), 0, peak_rss_bytes=20, peak_device_bytes=4))
    log.take(StageReport(1, (1,), peak_rss_bytes=5))
    summary = log.close("failed")
    assert (summary["peak_rss_bytes"], summary["peak_device_bytes"]) == ([30, 5], [4, 0])

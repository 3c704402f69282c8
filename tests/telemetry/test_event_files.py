"""Event files of a run, as TensorBoard's own reader has them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from disturbed import reports_each_step
from followed import Diary, StopAt, small

from ffpipe import Interrupted, UserError, resume, train


def test_event_files_are_read_by_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    diary = Diary()
    with pytest.raises(Interrupted):
        train(small(tmp_path / "run", tensorboard=True), callbacks=[StopAt(56)], engine=reports_each_step)
    resume(tmp_path / "run", callbacks=[diary])
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    kept = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    named = {"loss": "loss", "errors": "pair_errors", "rate": "rate", "factor": "factor", "weights": "weight_rms"}
    for tag, column in named.items():
        for layer, name in ((0, "block 0"), (1, "block 1"), (-1, "read-out")):
            written = [(event.step, event.value) for event in events.Scalars(f"{tag}/{name}")]
            expected = [(row["step"], row[column]) for row in kept if row["layer"] == layer]
            assert [step for step, _ in written] == [step for step, _ in expected]
            assert [value for _, value in written] == pytest.approx([value for _, value in expected], rel=1e-6)
    tags = set(events.Tags()["scalars"])
    assert {"validation error/softmax", "test error/goodness", "busy/stage 0", "speed/examples per second"} <= tags
    # The test at the step of the snapshot is made again when the run goes on, and comes to the same.
    validated = {(event.step, event.value) for event in events.Scalars("validation error/softmax")}
    assert sorted(step for step, _ in validated) == [56, 112]


def test_events_of_a_run_that_begins_again_take_the_place_of_those_before(tmp_path: Path) -> None:
    """As of one that was killed before its first snapshot."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(Interrupted):
        train(small(tmp_path / "run", tensorboard=True), callbacks=[StopAt(56)], engine=reports_each_step)
    for snapshot in (tmp_path / "run" / "checkpoints").glob("step-*"):
        shutil.rmtree(snapshot)
    diary = Diary()
    resume(tmp_path / "run", callbacks=[diary])
    assert diary.started[0].first_step == 0
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("loss/block 0")] == list(range(14, 113, 14))
    assert [event.step for event in events.Scalars("validation error/softmax")] == [56, 112]


def test_without_the_package_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"needs the package tensorboard: pip install 'ffpipe\[tensorboard\]'"):
        train(small(tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()

"""Errors of blocks after snapshots, which stay: the run goes on from the newest."""

from __future__ import annotations

from pathlib import Path

import pytest
from covering import in_turn
from failing_blocks import STEPS, config, error_of, failing

from ffpipe import RunFailed, resume, train
from ffpipe.runs.view import View
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store


def snapshots(run_dir: Path) -> list[str]:
    return checkpoint.whole_snapshots(Store(str(run_dir / "checkpoints")))


class Begins(View):
    """Notes the steps after which a run goes on."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def resumed(self, step: int, steps: int) -> None:
        self.steps.append(step)


def check_nothing_is_lost(run: Path, engine: str, at: int | None) -> None:
    """Check that a run goes on after the step before an error, which it meets again."""
    made, saved = failing(at=at), STEPS if at is None else at
    line = error_of(made, run, **{"execution.engine": engine, "execution.snapshot_steps": 1})
    assert f"LookupError: not there (the program failed a second time after step {saved})" in line
    assert snapshots(run)[-1] == checkpoint.folder_of(saved)
    view = Begins()
    with pytest.raises(RunFailed, match=f"second time after step {saved}.*go on with: ffpipe resume"):
        resume(run, view=view, model=made)
    assert view.steps == [saved]


@pytest.mark.parametrize(("engine", "at"), in_turn(["local", "layerwise"], [STEPS - 1, None]))  # None: an evaluation
def test_an_error_loses_no_snapshot(engine: str, at: int | None, tmp_path: Path) -> None:
    check_nothing_is_lost(tmp_path / "run", engine, at)


@pytest.mark.long
@pytest.mark.parametrize("at", [STEPS - 1, None], ids=["in a step", "in an evaluation"])
@pytest.mark.usefixtures("cluster")
def test_an_error_in_an_actor_loses_no_snapshot(at: int | None, tmp_path: Path) -> None:
    check_nothing_is_lost(tmp_path / "run", "ray", at)


def test_layerwise_the_last_snapshot_in_a_chapter_before_an_error_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    fields = {"execution.engine": "layerwise", "execution.snapshot_steps": 2, "execution.chapter": STEPS}
    error_of(failing(), tmp_path / "run", **fields)
    assert snapshots(tmp_path / "run") == [checkpoint.folder_of(2)]
    whole = train(config(tmp_path / "whole", **fields), model=failing(at=STEPS))
    found = [checkpoint.read_manifest(Store(str(run / "checkpoints")), checkpoint.folder_of(2)).weights_sha256
             for run in (tmp_path / "run", whole.run_dir)]  # fmt: skip
    assert found[0] == found[1]

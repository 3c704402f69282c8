"""Callbacks follow a run: every row and evaluation once, in order, and nothing of theirs disturbs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from disturbed import reports_each_step
from followed import Diary, StopAt, small
from strangers import Notes

from ffpipe import (
    Callback,
    Config,
    Evaluation,
    Interrupt,
    Interrupted,
    LayerRow,
    RunFailed,
    RunStart,
    UserError,
    View,
    override,
    recipe,
    resume,
    train,
)
from ffpipe.learn.dense import FFDense
from ffpipe.pipeline.job import make_job
from ffpipe.planning.layout import make_layout
from ffpipe.runs.follow import Followed
from ffpipe.telemetry.callbacks import Callbacks
from ffpipe.telemetry.report import StageReport


def test_the_events_are_those_of_the_run_folder(tmp_path: Path) -> None:
    diary = Diary()
    result = train(small(tmp_path / "run", evaluate_train=50), callbacks=[diary])
    (run,) = diary.started
    assert (run.run_dir, run.steps, run.steps_per_epoch, run.first_step) == (tmp_path / "run", 112, 28, 0)
    assert len(run.blocks) == 2
    assert [block for stage in run.stages for block in stage] == [0, 1]
    table = pq.read_table(tmp_path / "run" / "metrics.parquet")
    told = sorted((vars(row) for row in diary.rows), key=lambda row: (row["step"], row["layer"]))
    assert told == table.select(list(told[0])).to_pylist()
    on_train = {each.step: each.error_softmax for each in diary.tests if each.split == "train"}
    assert table["train_error_softmax"].to_pylist() == [on_train.get(row["step"]) for row in told]
    splits = [(each.split, each.step, each.examples) for each in diary.tests]
    assert splits == [
        ("train", 56, 50), ("validation", 56, 97), ("train", 112, 50), ("validation", 112, 97), ("test", 112, 300)
    ]  # fmt: skip
    assert [speed.step for speed in diary.speeds][-1] == 112
    assert all(speed.examples_per_second > 0 for speed in diary.speeds)
    assert all(0 < busy <= 1 for speed in diary.speeds for busy in speed.busy)
    assert diary.ends == [result.summary]


def started(callback: Callback, interrupt: Interrupt) -> Followed:
    """Make the view of a run of 56 steps of 50 rows on one stage, which has started and has not reported yet."""
    job = make_job(override(recipe("digits"), {"training.dims": [64, 20, 20], "training.epochs": 2}))
    followed = Followed(View(), [callback], interrupt)
    followed.start(job, make_layout(job, 1), Path("run"), 0)
    return followed


def test_the_speed_is_that_of_training_also_where_a_test_has_begun() -> None:
    diary = Diary()
    followed = started(diary, Interrupt())
    end = LayerRow(28, 0, 1.0, 0.5)
    for report in (
        # Training begins after a second, and is faster in the second report than until the first.
        StageReport(0, (0, 1), step=10, seconds=2.0, train_began=1.0, train_seconds=2.0, rows=[replace(end, step=7)]),
        StageReport(0, (0, 1), step=20, seconds=2.5, train_began=1.0, train_seconds=2.5, rows=[replace(end, step=14)]),
        StageReport(0, (0, 1), testing="validation", tested=50, step=28, seconds=3.0, train_seconds=2.8, rows=[end]),
        StageReport(0, (0, 1), testing="validation", tested=90, step=28, seconds=4.0, train_seconds=2.8),
        StageReport(0, (0, 1), step=36, seconds=5.0, train_seconds=5.0, rows=[replace(end, step=35)]),
    ):
        followed.report(report)
    assert [(each.step, each.examples_per_second) for each in diary.speeds] == [
        (10, 500.0), (20, 1000.0), (28, 1000.0), (36, 1000.0)
    ]  # fmt: skip


def test_rates_and_sizes_are_those_of_the_schedule_and_the_weights(tmp_path: Path) -> None:
    from ffpipe import load

    config = small(tmp_path / "run")
    diary = Diary()
    train(config, callbacks=[diary])
    rates = {row.step: row.rate for row in diary.rows if row.layer == 0}
    full = config.training.optimizer.learning_rate
    # Hinton's schedule over 4 epochs of 28 steps: 1 for two, then (1 + 2 (4 - e)) / 4 for e = 3, 4.
    assert rates == {
        14: full,
        28: full,
        42: full,
        56: full,
        70: 0.75 * full,
        84: 0.75 * full,
        98: full / 4,
        112: full / 4,
    }
    assert all(row.rate == row.factor * full for row in diary.rows if row.layer == 0 and row.factor is not None)
    assert [row.factor for row in diary.rows if row.layer == -1][::4] == [1.0, 0.75]
    network = load(tmp_path / "run")
    block = network.blocks[0]
    assert isinstance(block, FFDense)
    last = next(row for row in diary.rows if row.step == 112 and row.layer == 0)
    assert last.weight_rms == pytest.approx(float(block.weight.detach().square().mean().sqrt()), rel=1e-5)
    assert last.output_rms == pytest.approx(1.0, rel=1e-3), "rows are normalised to a mean square of 1"
    head = next(row for row in diary.rows if row.step == 112 and row.layer == -1)
    assert head.output_rms is None
    assert head.weight_rms is not None


def test_one_that_raises_is_named_once_and_the_run_goes_on(tmp_path: Path) -> None:
    class Broken(Callback):
        """One that raises at every row."""

        def on_row(self, row: LayerRow) -> None:
            raise ZeroDivisionError("no such thing")

    view, diary = Notes(), Diary()
    result = train(small(tmp_path / "run"), view, callbacks=[Broken(), diary])
    assert result.summary["status"] == "finished"
    (said,) = [note for note in view.notes if "callback" in note]
    assert re.fullmatch(
        r"warning: callback Broken.on_row failed \(\S*test_callbacks.py:\d+: ZeroDivisionError: no such thing\); "
        "the run goes on, and this is not said again",
        said,
    )
    assert len(diary.rows) == 3 * 8


class Mute(Exception):
    """An exception without words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_without_a_view_it_is_said_on_stderr_whatever_was_raised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken(Callback):
        """One that raises at every row what cannot be printed."""

        def on_row(self, row: LayerRow) -> None:
            raise Mute

    capfd.readouterr()
    result = train(brief(tmp_path / "run"), callbacks=[Broken()])
    assert (result.summary["status"], result.summary["recoveries"]) == ("finished", 0)
    out, err = capfd.readouterr()
    assert out == ""
    (said,) = [line for line in err.splitlines() if "callback" in line]
    assert re.match(r"warning: callback Broken.on_row failed \(\S*test_callbacks.py:\d+: Mute\); the run goes", said)


def brief(folder: Path) -> Config:
    return override(small(folder, evaluate_every=0, log_steps=7), {"training.epochs": 1})


class Ends(Callback):
    """The end of the program or the run, in one method, as often as that is called."""

    def __init__(self, method: str, end: Callable[[RunStart], object]) -> None:
        self._run: RunStart | None = None
        self._method, self._how = method, end

    def on_start(self, run: RunStart) -> None:
        self._run = run
        self._end("on_start")

    def on_row(self, row: LayerRow) -> None:
        self._end("on_row")

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self._end("on_end")

    def _end(self, method: str) -> None:
        assert self._run is not None
        if method == self._method:
            self._how(self._run)


def stops(run: RunStart) -> None:
    run.stop()


def exits(_: RunStart) -> None:
    sys.exit(3)


def interrupts_once() -> Callable[[RunStart], None]:
    left = [KeyboardInterrupt]

    def interrupts(_: RunStart) -> None:
        if left:
            raise left.pop()

    return interrupts


@pytest.mark.parametrize(
    ("method", "end"),
    [
        ("on_start", stops), ("on_start", exits), ("on_start", interrupts_once()), ("on_row", exits),
        ("on_row", interrupts_once()),
    ],
)  # fmt: skip
def test_one_that_ends_the_program_lets_the_run_save(
    method: str, end: Callable[[RunStart], object], tmp_path: Path
) -> None:
    diary = Diary()
    with pytest.raises(Interrupted, match=r"saved after step \d+; go on with: ffpipe resume"):
        train(brief(tmp_path / "run"), callbacks=[Ends(method, end), diary], engine=reports_each_step)
    assert [each["status"] for each in diary.ends] == ["interrupted"]
    assert 0 < diary.ends[0]["steps"] < 28
    assert method == "on_start" or diary.rows, "the others hear of the same event"


class Impatient(Callback):
    """One that is interrupted at every note."""

    def on_note(self, text: str) -> None:
        raise KeyboardInterrupt


def test_a_second_keyboard_interrupt_does_not_wait() -> None:
    interrupt, told = Interrupt(), list[str]()
    followed = started(Impatient(), interrupt)
    interrupt.goes_to(lambda: told.append("save"))
    followed.report(StageReport(0, (0, 1), step=1, seconds=1.0))
    followed.note("once")
    assert told == ["save"]
    with pytest.raises(KeyboardInterrupt):
        followed.note("twice")


def test_a_second_keyboard_interrupt_before_training_ends_the_program() -> None:
    followed = started(Impatient(), Interrupt())
    followed.note("once")
    with pytest.raises(KeyboardInterrupt):
        followed.note("twice")


def test_at_the_end_nothing_is_left_to_save(tmp_path: Path) -> None:
    diary = Diary()
    with pytest.raises(SystemExit):
        train(brief(tmp_path / "run"), callbacks=[Ends("on_end", exits), diary])
    assert [each["status"] for each in diary.ends] == ["finished"]


@pytest.mark.parametrize(
    ("callbacks", "says"),
    [
        (Diary(), "callbacks is a value of type Diary: give a list"),
        ([Diary(), Diary], r"callbacks\[1\] is the class Diary: give an instance, as Diary\(\)"),
        ([print], r"callbacks\[0\] is the function print: give an object of a subclass of ffpipe.Callback"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        train(brief(tmp_path / "run"), callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_methods_that_no_event_has_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Misspelt(Diary):
        """A callback with two methods that are never called."""

        def on_evaluate(self, evaluation: Any) -> None: ...

        def on_fit(self) -> None: ...

    train(brief(tmp_path / "run"), callbacks=[Misspelt()])
    said = [line for line in capsys.readouterr().err.splitlines() if "never called" in line]
    assert said[0] == "warning: Misspelt.on_evaluate is never called; did you mean 'on_evaluation'?"
    assert [line.split()[1] for line in said] == ["Misspelt.on_evaluate", "Misspelt.on_fit"]


def test_callbacks_may_come_once_only(tmp_path: Path) -> None:
    diary = Diary()
    train(brief(tmp_path / "run"), callbacks=iter([diary]))  # type: ignore[arg-type]  # as a generator gives them
    assert [end["status"] for end in diary.ends] == ["finished"]


def test_one_may_end_the_run_which_goes_on_later(tmp_path: Path) -> None:
    whole = train(small(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(small(tmp_path / "run"), callbacks=[StopAt(56)], engine=reports_each_step)
    diary = Diary()
    result = resume(tmp_path / "run", callbacks=[diary])
    assert diary.started[0].first_step >= 56
    assert min(row.step for row in diary.rows) > 56
    # Those of the snapshot's step have been made, and are in past.json.
    assert [(each.split, each.step) for each in diary.tests] == [("validation", 112), ("test", 112)]
    assert result.weights_sha256 == whole.weights_sha256


def test_what_comes_again_after_a_recovery_is_told_once() -> None:
    diary = Diary()
    callbacks = Callbacks([diary], complain=print, end=print)
    rows = [LayerRow(step, layer, 1.0, 0.0) for step in (10, 20, 30) for layer in (0, 1)]
    for row in [*rows[:4], *rows[2:]]:
        callbacks.tell("on_row", row)
    assert diary.rows == rows
    tests = [Evaluation(step, split, 9, 0.1, 0.1) for step in (10, 20) for split in ("validation", "test")]
    for test in [*tests[:3], *tests]:
        callbacks.tell("on_evaluation", test)
    assert diary.tests == tests


def test_a_failed_run_ends_for_callbacks_too(tmp_path: Path) -> None:
    config = small(tmp_path / "run")
    optimizer = replace(config.training.optimizer, learning_rate=1e30)
    diary = Diary()
    with pytest.raises(RunFailed):
        train(replace(config, training=replace(config.training, optimizer=optimizer)), callbacks=[diary])
    assert [end["status"] for end in diary.ends] == ["failed"]

"""The view of a run on a terminal and elsewhere."""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from disturbed import reports_each_step
from rich.console import Console

from ffpipe import ConsoleView, Evaluation, LayerRow, View, override, recipe, train
from ffpipe.config.schema import Execution
from ffpipe.pipeline.job import Job, Layout, make_job
from ffpipe.planning.layout import make_layout
from ffpipe.runs.view import Progress, Terminal, Warnings
from ffpipe.telemetry.report import StageReport


def shown(terminal: bool, tmp_path: Path) -> str:
    config = override(recipe("digits"), {"training.epochs": 5, "training.dims": [64, 40, 30]})
    config = replace(config, execution=replace(config.execution, engine="local", run_dir=str(tmp_path / "run")))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    train(config, ConsoleView(console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_a_table_of_stages(tmp_path: Path) -> None:
    text = shown(True, tmp_path)
    for word in ("stage", "layers", "loss", "pair errors", "busy", "epoch 5/5", "step 140/140", "examples/s", "left"):
        assert word in text
    assert "test error:" in text


def test_elsewhere_there_are_plain_lines(tmp_path: Path) -> None:
    text = shown(False, tmp_path)
    assert "\x1b" not in text
    assert "│" not in text
    epochs = [line for line in text.splitlines() if line.startswith("epoch ") and "  rate " in line]
    # Hinton's schedule over five epochs.
    for epoch, factor in enumerate((1, 1, 1, 0.6, 0.2), 1):
        (line,) = [each for each in epochs if each.startswith(f"epoch {epoch}/5  step {28 * epoch}/140  ")]
        assert f"  rate {0.01 * factor:.3g}, factor {factor:g}; loss, errors and rms of weights of blocks 0: " in line
        assert ", head: " in line
    lines = [line for line in text.splitlines() if not line.startswith("epoch ")]
    assert lines[0].startswith("digits: 64-40-30, 1,400 training examples")
    assert lines[1].startswith("after epoch 5: validation error")
    assert lines[-1] == f"run folder: {tmp_path / 'run'}"


def test_a_terminal_says_what_is_counted() -> None:
    by_heading: dict[str, dict[str, object]] = {
        "pair errors": {},
        "row errors": {"training.negatives": "random", "training.phases": "by-epoch"},
    }
    for heading, fields in by_heading.items():
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        view, job = ConsoleView(console), make_job(override(recipe("digits"), fields))
        view.start(job, make_layout(job, 1), Path("run"), 0)
        view.stop()
        assert isinstance(console.file, io.StringIO)
        assert heading in console.file.getvalue()


def two_stages() -> tuple[Job, Layout]:
    """Make a run of two epochs of 28 steps on two stages, of one layer each."""
    job = make_job(override(recipe("digits"), {"training.dims": [64, 20, 20], "training.epochs": 2}))
    return job, make_layout(job, 2)


def test_an_epoch_has_its_line_when_all_stages_have_ended_it() -> None:
    said, view = lines_of_a_view()
    view.start(*two_stages(), Path("run"), 0)
    assert len(said()) == 1
    of_last = [LayerRow(step, layer, step / 10, 0.25, 0.01) for step in (14, 28, 42, 56) for layer in (1, -1)]
    # The first stage's report comes after that of the last one, which is at the end by then.
    view.report(StageReport(1, (1,), step=56, rows=of_last, evaluations=[Evaluation(56, "test", 9, 0.5, None)]))
    assert said()[1:] == ["after epoch 2: test error 50.00% by goodness (9 examples)"]
    view.report(StageReport(0, (0,), step=27, rows=[LayerRow(14, 0, 9.0, 0.5)]))
    assert len(said()) == 2
    rows = [LayerRow(28, 0, 8.0, 0.5, 0.01, 0.125, 1.0, 0.75), LayerRow(42, 0, 7.0, None, 0.02)]
    view.report(StageReport(0, (0,), step=55, rows=rows))
    figures = "loss, errors and rms of weights of blocks"
    assert said()[2:] == [
        f"epoch 1/2  step 28/56  rate 0.01, factor 0.75; {figures} 0: 8.0000 50.00% 0.1250, 1: 2.8000 25.00% -, "
        "head: 2.8000 25.00% -"
    ]
    view.report(StageReport(0, (0,), step=56))
    assert said()[3:] == [
        f"epoch 2/2  step 56/56  rate 0.02 0.01; {figures} 0: 7.0000 - -, 1: 5.6000 25.00% -, head: 5.6000 25.00% -"
    ]


def test_after_a_recovery_the_epochs_are_those_of_the_new_stages() -> None:
    said, view = lines_of_a_view()
    job, layout = two_stages()
    view.start(job, layout, Path("run"), 28)
    view.report(StageReport(0, (0,), step=56, rows=[LayerRow(56, 0, 1.0, 0.5)]))
    view.go_on(make_layout(job, 1), 30)
    view.report(StageReport(0, (0, 1), step=56, rows=[LayerRow(56, layer, 2.0, 0.5) for layer in (0, 1)]))
    assert said()[1:] == [
        "epoch 2/2  step 56/56  loss, errors and rms of weights of blocks 0: 2.0000 50.00% -, 1: 2.0000 50.00% -"
    ]


def lines_of_a_view() -> tuple[Callable[[], list[str]], ConsoleView]:
    """Make a view, and a function that returns what it has printed."""
    file = io.StringIO()
    return lambda: file.getvalue().splitlines(), ConsoleView(Console(file=file, width=40))


class OutStream(io.StringIO):
    """The standard output of a notebook's kernel: no terminal, and no file."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def test_a_notebook_gets_plain_lines_in_the_output_of_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    class ZMQInteractiveShell:
        """By this name programs know the shell of a notebook."""

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    for name, value in (("FORCE_COLOR", "1"), ("CLICOLOR_FORCE", "1"), ("TERM", "xterm-color")):  # as ipykernel sets
        monkeypatch.setenv(name, value)
    stream = OutStream()
    with redirect_stdout(stream):
        view = ConsoleView()
        view.start(*two_stages(), Path("run"), 0)
        rows = [LayerRow(28, layer, 1.0, 0.5) for layer in (0, 1)]
        view.report(StageReport(0, (0,), step=28, rows=rows[:1]))
        view.report(StageReport(1, (1,), step=28, rows=rows[1:]))
        view.stop()
        view.finish(Path("runs/[a]"), {"softmax": 0.02}, 12.5, None)
    title, *lines = stream.getvalue().splitlines()
    assert title.startswith("digits: 64-20-20, 1,400 training examples")
    assert lines == [
        "epoch 1/2  step 28/56  loss, errors and rms of weights of blocks 0: 1.0000 50.00% -, 1: 1.0000 50.00% -",
        "trained in 12.5 s",
        "test error: 2.00% by softmax",
        "run folder: runs/[a]",
    ]


def test_without_a_view_warnings_alone_go_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Warnings()
    view.note("a stage was lost; going on")
    view.note("warning: a snapshot could not be written:\n\x1b[31mred")
    assert capsys.readouterr() == ("", "warning: a snapshot could not be written: \\x1b[31mred\n")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        view.note("warning: nobody hears")
        with suppress(OSError):
            full.close()


@pytest.mark.parametrize("reader", ["a full disk", "nobody"])
def test_a_run_whose_words_are_lost_goes_on(reader: str, tmp_path: Path) -> None:
    config = override(recipe("digits"), {"training.epochs": 2, "training.dims": [64, 40, 30]})
    config = replace(config, execution=replace(config.execution, engine="local", run_dir=str(tmp_path / "run")))
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full" if reader == "a full disk" else writing, "w", buffering=1) as output:
        result = train(config, ConsoleView(Terminal(file=output)))
        with suppress(OSError):
            output.close()
    os.close(writing) if reader == "a full disk" else None
    assert result.summary["status"] == "finished"


def test_a_test_says_how_far_it_is() -> None:
    sizes = {"validation": 50, "test": 2000}
    job = SimpleNamespace(steps_per_epoch=14, steps=28, config=recipe("digits"), tested=sizes)
    progress = Progress(job, SimpleNamespace(stages=[SimpleNamespace(layers=range(2))]), 0)  # type: ignore[arg-type]
    for seconds, step in ((1.0, 14), (2.0, 28)):
        progress.take(StageReport(0, (0, 1), step=step, seconds=seconds))
    assert progress.headline().endswith("step 28/28  700 examples/s  0 s left")
    heads = []
    for seconds, tested in ((3.0, 10), (4.0, 12), (5.0, 110), (6.0, 1210)):
        progress.take(StageReport(0, (0, 1), step=28, seconds=seconds, testing="test", tested=tested))
        heads.append(progress.headline().partition("28/28  tests: ")[2])
    assert heads == [
        "10/2,000 test examples",
        "12/2,000 test examples  2 examples/s  994 s left",
        "110/2,000 test examples  50 examples/s  38 s left",
        "1,210/2,000 test examples  400 examples/s  2 s left",
    ]


def test_stages_report_how_far_their_tests_are(tmp_path: Path) -> None:
    class Tests(View):
        """A view that keeps how far the last stage is."""

        seen: ClassVar[list[tuple[str, int]]] = []

        def report(self, report: StageReport) -> None:
            if report.stage == 1:
                self.seen.append((report.testing, report.tested))

    fields = {"execution.engine": "local", "execution.stages": 2, "execution.chunk": 1, "training.epochs": 1}
    fields |= {"training.dims": [64, 20, 10], "execution.run_dir": str(tmp_path / "run")}
    train(override(recipe("digits"), fields), Tests(), engine=reports_each_step)
    told = list(dict.fromkeys(Tests.seen))
    tests = [tested for split, tested in told if split == "test"]
    assert told[0] == ("", 0)
    assert told[-1] == ("", 300)
    assert len(tests) > 3
    assert tests == sorted(tests)


def test_after_a_recovery_it_follows_the_new_stages() -> None:
    job = SimpleNamespace(steps_per_epoch=10, steps=100, config=recipe("digits"))
    three, two = ([SimpleNamespace(layers=range(i, i + 1)) for i in range(n)] for n in (3, 2))
    progress = Progress(job, SimpleNamespace(stages=three), 10)  # type: ignore[arg-type]  # what it looks at
    assert progress.headline().startswith("epoch 2/60  step 10/100")
    for seconds, step in ((1.0, 20), (2.0, 40)):
        progress.take(StageReport(2, (2,), step=step, seconds=seconds))
    assert (progress.step, progress.examples_per_second) == (40, 20 * 50)
    progress.go_on(SimpleNamespace(stages=two), 30)  # type: ignore[arg-type]
    assert (progress.layers, progress.step, progress.examples_per_second) == ([(0,), (1,)], 30, 0.0)
    for seconds, step in ((1.0, 50), (2.0, 60)):
        progress.take(StageReport(1, (1,), step=step, seconds=seconds))
    assert (progress.step, progress.examples_per_second) == (60, 10 * 50)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (0, "the run begins again at step 0: no snapshot can be used, and what was trained before is lost"),
        (1400, "the run goes on from step 1,400 of 2,800, its newest snapshot; what came after is made again"),
        (2800, "the run is at its end, step 2,800 of 2,800: nothing is left to train"),
    ],
)
def test_where_a_run_goes_on_from(step: int, says: str) -> None:
    file = io.StringIO()
    ConsoleView(Console(file=file, width=40)).resumed(step, 2800)
    assert file.getvalue() == f"{says}\n"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine": "ray", "stages": 2}, "starting 2 stages with Ray\n"),
        ({"engine": "ray", "stages": 1}, "starting 1 stage with Ray\n"),
        ({"engine": "ray", "stages": 0}, "starting stages with Ray\n"),
        ({"engine": "ray", "stages": 0, "device": ("cpu", "cuda", "cuda")}, "starting 3 stages with Ray\n"),
        ({"engine": "local", "stages": 2}, ""),
        ({"engine": "layerwise", "stages": 2}, ""),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_start_that_takes_a_while_is_said(fields: dict[str, Any], says: str, terminal: bool) -> None:
    file = io.StringIO()
    ConsoleView(Console(file=file, force_terminal=terminal)).starting(Execution(**fields))
    assert file.getvalue() == says


@pytest.mark.parametrize(
    ("start", "says"), [(4.06, "trained in 12.5 s, after 4.1 s of start-up"), (None, "trained in 12.5 s")]
)
def test_the_start_is_no_part_of_training(start: float | None, says: str) -> None:
    file = io.StringIO()
    ConsoleView(Console(file=file, width=40)).finish(Path("runs/a"), {"goodness": 0.02}, 12.5, start)
    assert file.getvalue() == f"{says}\ntest error: 2.00% by goodness\nrun folder: runs/a\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;owned\x07\x1b[31m.png: 3", r"a\x1b]0;owned\x07\x1b[31m.png: 3"),
        ("run folder: a\rb\x9b2J\u202e\udcff", r"run folder: a\rb\x9b2J\u202e\udcff"),
        ("größe, 数字 [bold]: 50%", "größe, 数字 [bold]: 50%"),
    ],
)
def test_nothing_that_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    file = io.StringIO()
    ConsoleView(Console(file=file, width=20)).note(f"{text}\nb")
    assert file.getvalue() == f"{shown}\nb\n"

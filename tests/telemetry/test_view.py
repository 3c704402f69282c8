"""What a person sees, on a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ffpipe import override, recipe, train
from ffpipe.telemetry.view import LiveView, PlainView, make_view


def shown(terminal: bool, tmp_path: Path) -> str:
    config = override(recipe("digits"), {"training.epochs": 5, "training.dims": [64, 40, 30]})
    config = replace(config, execution=replace(config.execution, engine="local", run_dir=str(tmp_path / "run")))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    train(config, make_view(console))
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
    lines = [line for line in text.splitlines() if not line.startswith("epoch ")]  # a slow run says where it is
    assert lines[0].startswith("digits: 64-40-30, 1,400 training examples")
    assert lines[1].startswith("after epoch 5: validation error")
    assert lines[-1] == f"run folder: {tmp_path / 'run'}"


def test_the_view_follows_the_console() -> None:
    assert isinstance(make_view(Console(force_terminal=True)), LiveView)
    assert isinstance(make_view(Console(file=io.StringIO())), PlainView)

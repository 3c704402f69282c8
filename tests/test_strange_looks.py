"""`ffpipe runs` and `ffpipe show` on folders in which anything may lie: damage is named, and nothing is waited for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from looks import SCREEN, as_json, printed
from strangers import endless, loop, set_field

from ffpipe.runs.inspection import LARGEST_PAST_SHOWN, LARGEST_SUMMARY


def write(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def of_bytes(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


HOSTILE: dict[str, Callable[[Path], object]] = {
    "no JSON": write("{"),
    "empty": write(""),
    "no UTF-8": write(b'{"status": "\xff\xfe"}'),
    "no object": write("[1, 2]"),
    "brackets": write("[" * 200_000),
    "too large": of_bytes(LARGEST_SUMMARY + 1),
    "numbers as text": write('{"steps": "many"}'),
    "numbers without end": write('{"train_seconds": 1e999}'),
    "less than nothing": write('{"peak_rss_bytes": [-1]}'),
    "other words": write('{"status": "great"}'),
    "a folder": Path.mkdir,
    "a named pipe": os.mkfifo,
    "an endless device": endless,
    "a link to itself": loop,
}


HOSTILE_PAST = {
    **{
        kind: HOSTILE[kind]
        for kind in ("no JSON", "empty", "no object", "brackets", "a named pipe", "a link to itself")
    },
    "rows as text": write('{"rows": ["1"]}'),
    "rows beyond all layers": write('{"rows": [{"step": 1, "layer": 5000, "loss": 1, "pair_errors": null}]}'),
    "too large": of_bytes(LARGEST_PAST_SHOWN + 1),
}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(pytest.param("summary.json", make, id=f"summary.json-{kind}") for kind, make in HOSTILE.items()),
        *(pytest.param("config.toml", make, id=f"config.toml-{kind}") for kind, make in HOSTILE.items()),
        *(pytest.param("past.json", make, id=f"past.json-{kind}") for kind, make in HOSTILE_PAST.items()),
    ],
)
def test_a_damaged_file_is_named(
    name: str, make: Callable[[Path], object], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "first", runs / "second")
    path = runs / "first" / name
    path.unlink()
    make(path)
    listed = {look["run"]: look for look in as_json(["runs"], capsys)}
    assert listed["second"]["state"] == "finished"
    seen_in_a_list = name != "past.json"
    assert (listed["first"]["state"] == "damaged") == seen_in_a_list
    assert [word.split(":")[0] for word in listed["first"]["damage"]] == [name] * seen_in_a_list
    lines = printed(["runs"], capsys)
    assert len(lines) == 3
    assert max(map(len, lines)) <= SCREEN[1]
    shown = printed(["show", "runs/first"], capsys)
    assert len(shown) <= SCREEN[0] + 2
    assert any(f"{name}: " in line for line in shown)
    assert [word.split(":")[0] for word in as_json(["show", "runs/first"], capsys)["damage"]] == [name]


def test_words_of_strangers_reach_no_terminal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x07\r\n\u202e"
    run = (runs / "first").rename(runs / f"run{evil}")
    set_field(run / "summary.json", "engine", evil)
    note = {"reason": evil, "from_step": 1, "lost_steps": 1, "stages": 1}
    set_field(run / "summary.json", "recovery_notes", [note])
    errors = {"error_goodness": None, "error_softmax": None, "errors": {evil: 0.5}}
    set_field(run / "summary.json", "evaluations", [{"step": 1, "split": evil, "examples": 1, **errors}])
    for name in ("model", "optimizer/kind", "data/source", "data/train"):
        value = [evil] if name == "data/train" else "text" if name == "data/source" else evil
        set_field(run / "config.toml", f"training/{name}", value)
    assert "\\x1b[2J" in "".join(printed(["runs"], capsys))
    text = "".join(printed(["show", str(run)], capsys))
    assert text.count("\\x1b[2J") >= 5
    as_json(["show", str(run)], capsys)
    as_json(["runs"], capsys)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, endless, loop])
def test_a_strange_lock_is_no_lock(
    make: Callable[[Path], object], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "first" / ".lock").unlink()
    make(runs / "first" / ".lock")
    assert as_json(["runs"], capsys)[0]["state"] == "finished"


def test_links_to_runs_are_runs_and_broken_ones_are_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "link").symlink_to("first")
    (runs / "broken").symlink_to("nowhere")
    (runs / "loop").symlink_to("loop")
    os.mkfifo(runs / "pipe")
    assert {look["run"] for look in as_json(["runs"], capsys)} == {"first", "link"}


@pytest.mark.parametrize("left", ["summary.json", "past.json", "metrics.parquet", "checkpoints"])
def test_what_is_left_of_a_run_is_listed_as_damaged(left: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = runs / "rest"
    rest.mkdir()
    (runs / "first" / left).rename(rest / left)
    listed = {look["run"]: look for look in as_json(["runs"], capsys)}
    assert (listed["rest"]["state"], listed["rest"]["damage"]) == ("damaged", ["config.toml: absent"])
    assert "config.toml: absent" in " ".join(printed(["show", "runs/rest"], capsys))

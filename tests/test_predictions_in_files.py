"""Predictions that `ffpipe predict --out` writes to a file: whole or not at all, and readable by others."""

from __future__ import annotations

import csv
import json
import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused
from forms import encode

import ffpipe
from ffpipe.commands.cli import main
from ffpipe.commands.predict import _written
from ffpipe.runs.inference import Prediction

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 8, 8), np.uint8)


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "JSON"])
def test_predictions_go_to_a_file(
    ending: str, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "some.npy", IMAGES[:2])
    (here / 'a, "b".png').write_bytes(encode(IMAGES[2]))
    expected = ffpipe.predict(strangers_run, ["some.npy", 'a, "b".png'])
    out = here / f"found.{ending}"
    assert main(["predict", str(strangers_run), "some.npy", 'a, "b".png', "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote 3 predictions to {out}\n"
    text = out.read_text()
    rows: list[dict[str, Any]]
    if ending == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert list(rows[0])[:5] == ["path", "index", "label", "name", "probability_0"]
        shares = [[float(row[f"probability_{label}"]) for label in range(10)] for row in rows]
        places = [int(row["index"]) if row["index"] else None for row in rows]
    else:
        rows = [json.loads(line) for line in text.splitlines()] if ending == "jsonl" else json.loads(text)
        shares, places = [row["probabilities"] for row in rows], [row["index"] for row in rows]
        assert {row["readout"] for row in rows} == {"softmax"}
    assert places == [0, 1, None]
    assert [row["path"] for row in rows] == [each.path for each in expected]
    assert [(int(row["label"]), row["name"]) for row in rows] == [(each.label, each.name) for each in expected]
    assert np.allclose(shares, [each.probabilities for each in expected])
    assert sorted(path.name for path in here.iterdir()) == sorted(['a, "b".png', f"found.{ending}", "some.npy"])


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_shares_that_are_not_numbers_are_null(ending: str, tmp_path: Path) -> None:
    """As of weights that are not finite; what is written is JSON all the same."""
    out = tmp_path / f"found.{ending}"
    with _written(out) as write:
        write(Prediction("one.png", 0, (math.nan, 1.0), "0", readout="softmax"))
    found = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert (found[0] if ending == "json" else found)["probabilities"] == [None, None]


def test_nothing_is_written_where_nothing_can_be_read(
    here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["predict", str(strangers_run), "absent.png", "--out", "found.csv"], "absent.png", capsys)
    assert list(here.iterdir()) == []


def test_a_name_of_several_lines_is_in_one_row(tmp_path: Path) -> None:
    paths = ["a\rb.png", "a\nb.png", "a\r\nb.png", "plain.png"]
    with _written(tmp_path / "found.csv") as write:
        for path in paths:
            write(Prediction(path, 0, (0.0, 1.0), "0"))
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["name"], row["probability_1"] > "0.7") for row in rows] == [(p, "0", True) for p in paths]
    # In the name alone: rows end without it.
    assert (tmp_path / "found.csv").read_bytes().count(b"\r\n") == 1


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_a_file_that_cannot_be_written_whole_is_not_there(
    ending: str, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound on the size of files plays a full disk."""
    np.save(here / "many.npy", np.zeros((200, 8, 8)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        assert main(["predict", str(strangers_run), "many.npy", "--out", f"found.{ending}"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), f"found.{ending}" in err) == ("", 1, True)
    assert [path.name for path in here.iterdir()] == ["many.npy"]

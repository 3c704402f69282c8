"""Reports of whole runs: everything is there, nothing is fetched or executed, and a browser has no complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import numpy as np
import pytest
from covering import only
from PIL import Image
from reported import (
    DRAWN,
    HOSTILE_CLASSES,
    HOSTILE_FOLDER,
    SENTENCE,
    Elements,
    Reported,
    leave_pictures_out,
    make_text,
)

from ffpipe.reports import write_report

PICTURES = {
    "pairs": {
        *("errors", "loss", "training-errors", "weights", "rates", "confusion", "mistakes", "spread", "rows"),
        *("fields-0", "time", "timeline", "memory"),
    },
    "classes": {
        *("errors", "errors-of-blocks", "loss", "training-errors", "weights", "outputs", "rates", "confusion"),
        *("spread", "rows", "fields-0", "fields-1", "fields-2", "time", "memory"),
    },
    "hybrid": {
        *("errors", "loss", "training-errors", "weights", "rates", "confusion", "mistakes", "spread", "rows"),
        *("fields-0", "time", "memory"),
    },
    "text": {
        *("errors", "errors-of-blocks", "loss", "training-errors", "weights", "outputs", "rates", "confusion"),
        *("spread", "time", "memory"),
    },
}
KINDS = only(DRAWN, sorted(PICTURES))


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_is_there_and_shows_something(reported: dict[str, Reported], kind: str) -> None:
    each = reported[kind]
    assert {path.stem for path in each.pictures} >= PICTURES[kind]
    for path in each.pictures:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"), np.float64)
        assert pixels.std() > 5, path.name
        assert np.ptp(pixels) > 100, path.name
    drawn = Elements(each.report.read_text()).pictures
    assert len(drawn) == len(each.pictures)
    for tag, of in drawn:
        assert len(of["aria-label"] if tag == "svg" else of["alt"]) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leads_out_of_the_file(reported: dict[str, Reported], kind: str) -> None:
    text = reported[kind].report.read_text()
    page = Elements(text)
    assert {tag for tag, _ in page.found} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    for tag, of in page.found:
        assert not [name for name in of if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert of.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, of)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    names = [of["id"] for _, of in page.found if "id" in of]
    assert len(names) == len(set(names))
    inside = {of["href"].removeprefix("#") for tag, of in page.found if tag == "a"}
    assert inside <= set(names)


def test_what_each_kind_of_run_has_to_show(reported: dict[str, Reported]) -> None:
    texts = {kind: each.text for kind, each in reported.items()}
    assert "Goodness of positive and negative rows" in texts["pairs"]
    assert "test error by softmax" in texts["pairs"]
    assert re.search(r"example\s*row of the training part\s*right class", texts["pairs"])
    assert "Margins of the class heads" in texts["classes"]
    assert "strongest channels, place after place" in texts["hybrid"]
    assert any((SENTENCE * 2)[start : start + 12] in texts["text"] for start in range(len(SENTENCE)))
    assert "bits a symbol" in texts["text"]
    assert "Marked: 16 symbols of the test text." in texts["text"], "a sequence has no more"
    for text in texts.values():
        assert re.search(r"foretold.*measured peak.*off.*[+-][0-9.]+%", text, re.DOTALL)
        assert "config.toml" in text


def test_names_of_a_stranger_are_text(reported: dict[str, Reported]) -> None:
    text = reported["classes"].report.read_text()
    page = Elements(text)
    assert HOSTILE_FOLDER not in text
    assert escape(HOSTILE_FOLDER) in text
    for name in HOSTILE_CLASSES:
        assert escape(name) in text
        assert name not in text
        assert name in page.text
    assert not [of for tag, of in page.found if tag == "img" and of.get("class") != "png"]


@pytest.mark.parametrize("kinds", [DRAWN, pytest.param(tuple(PICTURES), marks=pytest.mark.long)], ids=len)
def test_a_browser_has_no_complaint(kinds: tuple[str, ...], reported: dict[str, Reported], tmp_path: Path) -> None:
    """All reports in one start of it; each would be refused what it fetches, and that would be complained of."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    frames = "".join(
        f'<iframe src="{reported[kind].report.as_uri()}" width="1160" height="900"></iframe>' for kind in kinds
    )
    (tmp_path / "all.html").write_text(f"<!DOCTYPE html><title>all</title><body>{frames}</body>")
    picture = tmp_path / "all.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run"]
    options += [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size=1200,{len(kinds) * 925}",
        f"--screenshot={picture}",
    ]
    done = subprocess.run(
        [browser, *options, (tmp_path / "all.html").as_uri()], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"), np.float64)
    # Frames below one another, and something in each.
    for part in np.array_split(pixels, len(kinds)):
        assert part.std() > 10


def test_bytes_are_read_as_letters(tmp_path: Path) -> None:
    """A letter of several bytes is whole, and a class of a byte that is none by itself is named by its number."""
    run = make_text(tmp_path, "füchse, hühner, bären und löwen\n", "bytes")
    with pytest.MonkeyPatch.context() as patch:
        leave_pictures_out(patch)
        text = Elements(write_report(run, tmp_path / "text.html", examples=20).read_text()).text
    assert "\N{REPLACEMENT CHARACTER}" not in text
    assert "ü" in text
    assert r"\xc3" in text
    assert r"\\xc3" not in text


def test_several_runs_are_laid_over_each_other(reported: dict[str, Reported], tmp_path: Path) -> None:
    runs = [reported["pairs"].run, reported["hybrid"].run]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert write_report(runs, png="pictures") == Path("report.html")
    out = tmp_path / "report.html"
    assert out.stat().st_size > 10_000
    page = Elements(out.read_text())
    assert "A: pairs" in page.text
    assert "B: hybrid" in page.text
    assert re.search(r"training\.negatives\s*hard\s*hybrid", page.text)
    assert "training.seed" not in page.text
    names = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert names == {"validation-goodness", "validation-softmax", "loss-of-blocks", "errors-of-blocks"}
    assert "Loss of each block." in page.text

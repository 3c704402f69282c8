"""Figures go to their file beside those of others, and the tables say what the file says."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import reproduce
import results_table
from figures import Figures, add_figures, read_figures
from known_results import ROWS, Row
from repository import REPOSITORY

from ffpipe.system.errors import UserError

FIGURES = Figures(
    goodness=0.0139,
    softmax=0.02,
    losses=None,
    epochs_to_2_percent=28.0,
    seconds=90.0,
    engine="ray",
    stages=2,
    weights_sha256="00",
    command="ffpipe train hinton --seed 1",
    machine="2 cores of Abacus 9",
    date="2026-11-21",
)


def in_bfloat16(row: Row, seed: int) -> results_table.Kept:
    return results_table.Kept("bfloat16", 400_000_000 + seed, 1234.5)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results" / "results.json"
    threads = [threading.Thread(target=add_figures, args=(path, "hinton", seed, FIGURES)) for seed in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_figures(path) == {"hinton": dict.fromkeys(range(1, 13), FIGURES)}
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]
    assert list(json.loads(path.read_text())["hinton"]) == [str(seed) for seed in range(1, 13)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hinton": {"one": {}}}', '{"hinton": {"1": {"goodness": "low"}}}'])
def test_a_damaged_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"results\.json is damaged .*: take it back with `git restore .*run the rows"):
        read_figures(path)
    with pytest.raises(UserError):
        add_figures(path, "hinton", 1, FIGURES)
    assert path.read_text() == text


def test_the_figures_of_a_row_are_mean_worst_and_seeds() -> None:
    row = Row("tiny", "digits", "-", "-", ("goodness", "softmax"))
    assert results_table.ours(row, {2: FIGURES}) == "1.39 / 2.00 (1 of 3 seeds)"
    two = {1: FIGURES, 2: replace(FIGURES, goodness=0.0149)}
    assert results_table.ours(row, two) == "1.44 / 2.00 (worst 1.49 / 2.00, 2 of 3 seeds)"
    beyond = Row("tiny", "digits", "-", "-", ("goodness",), (1,))
    assert results_table.ours(beyond, {1: FIGURES}) == "1.39 (1 of 1 seed)"
    assert results_table.ours(beyond, {1: FIGURES, 2: FIGURES}) == "1.39 (worst 1.39, 2 of 2 seeds)"
    losses = Row("tiny", "digits", "-", "-", ("losses",), (1,))
    runs = {1: replace(FIGURES, losses=[0.5, 0.25])}
    assert results_table.ours(losses, runs) == "losses 0.5000, 0.2500 (1 of 1 seed)"
    bits = Row("tiny", "char-lm", "-", "-", ("bits",), (1, 2))
    runs = {1: replace(FIGURES, bits=2.5), 2: replace(FIGURES, bits=2.0)}
    assert results_table.ours(bits, runs) == "2.250 bits a character (2 of 2 seeds)"


def test_a_row_of_the_table_has_its_products_time_and_command() -> None:
    cells = results_table.lines_of({"hinton": {1: FIGURES}}, in_bfloat16)
    row, ours = ROWS["hinton"], "1.39 / 2.00 (1 of 3 seeds)"
    told = [row.setting, row.published, row.differs, ours, "bfloat16", "1.5 min", "1,234", "400 MB"]
    assert cells == [["`hinton`", *told, "`ffpipe train hinton --seed 1`"]]


def test_rows_that_were_not_run_are_a_table_of_their_own() -> None:
    cells = results_table.lines_not_run({"hinton": {1: FIGURES}})
    assert [cell[0] for cell in cells] == [f"`{name}`" for name in ROWS if name != "hinton"]
    row = ROWS["tf-C13"]
    command = "`ffpipe train tf-five-digits --seed 1 --training.data.order=shuffled"
    (found,) = [cell for cell in cells if cell[0] == "`tf-C13`"]
    assert found[1:4] == [row.setting, row.published, row.differs]
    assert found[4].startswith(command)
    assert found[4].endswith("--training.dims 784 500 500 500 500 --training.batch-size=512`")


def test_every_row_says_what_is_not_to_the_letter() -> None:
    assert [row.name for row in ROWS.values() if row.differs == "-"] == []


def test_what_was_not_run_is_rows_and_seeds() -> None:
    found = results_table.missing({"hinton": {2: FIGURES}, "augmented": {1: FIGURES}})
    assert found[:2] == ["hinton (seed 1, 3)", "hinton-exact"]
    assert "augmented" not in found


def test_the_table_of_lags_has_them_in_order() -> None:
    slow = replace(FIGURES, goodness=0.03, epochs_to_2_percent=None)
    three = {1: FIGURES, 2: replace(FIGURES, goodness=0.0149, epochs_to_2_percent=20.0), 3: slow}
    figures = {"hinton": {1: FIGURES}, "lag-48": three, "lag-256": {1: slow}, "keras": {1: FIGURES}}
    assert results_table.lines_of_lags(figures) == [
        ["16", "1", "1.39 / 2.00", "28"],
        ["48", "3", "1.96 (1.39 to 3.00) / 2.00 (2.00 to 2.00)", "24 (20 to 28), 1 not"],
        ["256", "1", "3.00 / 2.00", "-"],
    ]


def test_the_page_names_the_machine_once_or_in_each_row(tmp_path: Path) -> None:
    page = tmp_path / "reproduction.md"
    page.write_text(f"before\n{results_table.BEGIN}old\n{results_table.END}after\n")
    results_table.write_table(page, {"hinton": {1: FIGURES}}, in_bfloat16)
    text = page.read_text()
    assert text.startswith("before\n<!-- results -->\nAll rows were run on 2 cores of Abacus 9.\n\n| row |")
    assert "| 16 | 1 | 1.39 / 2.00 | 28 |\n" in text
    assert text.endswith(f"{results_table.END}after\n")
    other = replace(FIGURES, machine="one GPU")
    results_table.write_table(page, {"hinton": {1: FIGURES, 2: other}, "keras": {1: other}}, in_bfloat16)
    assert "All rows" not in page.read_text()
    assert "| command | machine |\n" in page.read_text()
    assert "| 2 cores of Abacus 9, one GPU |\n" in page.read_text()
    page.write_text("no marks")
    with pytest.raises(UserError, match="lacks the lines"):
        results_table.write_table(page, {}, in_bfloat16)


def test_the_page_has_the_rows_and_figures_of_today(tmp_path: Path) -> None:
    page = tmp_path / "reproduction.md"
    page.write_bytes((REPOSITORY / "docs" / "reproduction.md").read_bytes())
    results_table.write_table(page, read_figures(reproduce.RESULTS / "results.json"), reproduce.kept_of)
    today = page.read_text(encoding="utf-8")
    assert today == (REPOSITORY / "docs" / "reproduction.md").read_text(encoding="utf-8"), "reproduce.py --table"

"""The sections of a report, from what a run wrote down: which figures they have, and what they call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import BlockConfig, Config, Data, Execution
from ffpipe.data.splits import load_splits
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import make_job
from ffpipe.reports.answers import Answers, Mistake, _mistakes, origins
from ffpipe.reports.compare import compared
from ffpipe.reports.gather import Curve, Record, Summary
from ffpipe.reports.parts import Missing, Picture, Shown, Table, Tile
from ffpipe.reports.results import MOST_CURVES, errors, learning, tiles, where_time_went
from ffpipe.reports.trace import ACTIVITIES, Timeline
from ffpipe.reports.weights import _of_block
from ffpipe.reports.writing import letters, marked
from ffpipe.runs.folder import RunFolder
from ffpipe.telemetry.report import Evaluation, History, LayerRow


def recorded(
    rows: list[LayerRow],
    evaluations: list[Evaluation],
    training: Mapping[str, object] | None = None,
    summary: Summary | None = None,
) -> Record:
    """Make the record of a run on the digits of which so much is written down."""
    config = override(get_recipe("digits"), {f"training.{name}": value for name, value in (training or {}).items()})
    past = History(rows=rows, evaluations=evaluations)
    return Record(RunFolder(Path("run")), config, Shown(past), Shown(summary or Summary()), False)


def row(step: int, loss: float = 0.5, **numbers: float) -> LayerRow:
    return LayerRow(step, 0, loss, 0.25, **numbers)


@pytest.mark.parametrize(
    ("rows", "later", "counts"),
    [
        ([], [], True),
        ([row(10), row(20)], [], True),
        ([row(20), row(25)], [], False),
        ([], [Evaluation(30, "validation", 9, None, 0.2)], False),
    ],
    ids=["no rows", "rows until then", "rows after it", "a validation after it"],
)
def test_the_test_of_an_earlier_end_is_not_that_of_the_run(
    rows: list[LayerRow], later: list[Evaluation], counts: bool
) -> None:
    """As where a finished run has been given more epochs."""
    before = [Evaluation(20, split, 9, None, 0.125) for split in ("validation", "test")]
    record = recorded(rows, [*before, *later])
    assert record.test_errors == ({"softmax": 0.125} if counts else {})
    tested = Tile("12.50%", "test error by softmax")
    assert (tested in tiles(record, Shown())) == counts
    assert (tested._replace(label="least test error by softmax (A: run)") in compared([record], [0.0]).tiles) == counts


def test_a_run_that_broke_off_within_a_log_interval_is_at_the_step_that_it_saved() -> None:
    """Its newest rows are those of the end that it had before it was given more epochs, and so is its test."""
    summary = Summary(status="interrupted", steps=74)
    record = recorded([row(28), row(56)], [Evaluation(56, "test", 9, None, 0.125)], summary=summary)
    assert record.step == 74
    assert record.tested is None
    assert record.test_errors == {}
    assert Tile("74", "steps written down") in tiles(record, Shown())
    page = compared([record], [0.0])
    assert page.tiles == []
    (table,) = (item for item in page.sections[0].items if isinstance(item, Table))
    assert dict(zip(table.head, table.rows[0], strict=True))["steps"] == "74"


def test_rates_are_shown_where_a_block_has_one_or_the_run_is_an_old_one() -> None:
    """An old run is one of version 0.1, whose rows have none of these numbers."""
    worked_out = Shown([Curve("block 0", (1, 2), (0.5, 0.25))])
    for numbers, shown in (
        ({}, True),
        ({"weight_rms": 0.1}, False),
        ({"factor": 1.0}, False),
        ({"output_rms": 1.0}, False),
    ):
        items = learning(recorded([row(1, **numbers), row(2, **numbers)], []), 0.0, worked_out).items
        named = [item.name for item in items if isinstance(item, Picture)]
        assert ("rates" in named) == shown
        assert (Missing("learning rates", "no block has one rate") in items) != shown
        (table,) = (item for item in items if isinstance(item, Table))
        assert table.rows[0][4] == ("0.25" if shown else "-")


@pytest.mark.parametrize(
    ("training", "title"),
    [
        ({}, "Validation loss of each block on positive rows"),
        ({"method": "backprop"}, "Validation loss of each block,"),
    ],
)
def test_losses_are_of_positive_rows_where_there_are_negative_ones(training: dict[str, str], title: str) -> None:
    judged = [
        Evaluation(step, "validation", 9, None, None, {"last": 0.1, "block.0": 0.1}, {"block.0": 0.5})
        for step in (1, 2)
    ]
    found = [item for item in errors(recorded([], judged, training), 0.0).items if isinstance(item, Picture)]
    assert found[-1].name == "losses-of-blocks"
    assert found[-1].alt.startswith(title)


def test_errors_in_training_are_called_what_was_counted() -> None:
    ways: tuple[tuple[dict[str, object], str], ...] = (
        ({}, "pair whose negative row has the higher goodness"),
        ({"negatives": "random", "phases": "by-epoch"}, "row on the wrong side of the threshold"),
        ({"method": "backprop"}, "judged by its own objective"),
    )
    for training, said in ways:
        section = learning(recorded([row(1), row(2)], [], training), 0.0, Shown())
        assert said in section.intro
        (picture,) = (item for item in section.items if isinstance(item, Picture) and item.name == "training-errors")
        assert ("of rows" in picture.alt) == ("phases" in training)
        label = picture.figure.axes[0].get_ylabel()
        assert label == ("rows on the wrong side of the threshold" if "phases" in training else label)
        assert ("pairs" in label) == (not training)


def test_runs_are_compared_by_the_blocks_that_any_of_them_has() -> None:
    """A block need not count errors, and the deepest run need not be the one that has it."""
    of_runs = {(0, 1, 10): (0, 1), (1, 2): (2,), (0,): ()}
    records = [
        recorded([LayerRow(5, block, 0.5, 0.25 if block in counting else None) for block in blocks], [])
        for blocks, counting in of_runs.items()
    ]
    section = next(each for each in compared(records, [0.0] * 3).sections if each.title == "Blocks in training")
    shown = {
        each.name: [axes.get_title(loc="left") for axes in each.figure.axes if axes.axison]
        for each in section.items
        if isinstance(each, Picture)
    }
    assert shown == {
        "loss-of-blocks": ["block 0", "block 1", "block 2", "block 10"],
        "errors-of-blocks": ["block 0", "block 1", "block 2"],
    }


def test_errors_by_logistic_probabilities_are_a_picture_of_their_own() -> None:
    rows = [LayerRow(step, 0, 0.5, 0.25, logistic_pair_errors=0.125) for step in (1, 2)]
    section = learning(recorded(rows, []), 0.0, Shown())
    found = {item.name: item.alt for item in section.items if isinstance(item, Picture)}
    assert "25.00%" in found["training-errors"]
    assert "12.50%" in found["logistic-errors"]
    (table,) = (item for item in section.items if isinstance(item, Table))
    assert table.rows[0][3] == "25.00% (logistic 12.50%)"


def test_a_block_that_learns_no_more_has_no_rate_in_its_newest_row() -> None:
    section = learning(recorded([row(1, rate=0.1, factor=1.0), row(2)], []), 0.0, Shown())
    (table,) = (item for item in section.items if isinstance(item, Table))
    assert table.rows[0][4] == "-"


def test_what_was_measured_is_said_to_be_since_the_last_start() -> None:
    """A resumed run writes its trace and the shares of time of its stages anew."""
    found = Timeline(9.0, np.full((1, len(ACTIVITIES), 3), 0.1), (), False)
    items = where_time_went(Shown(Summary(time_shares=[{"compute": 0.5}])), Shown(found)).items
    (table,) = (item for item in items if isinstance(item, Table))
    assert "since it was last started" in table.caption
    (picture,) = (item for item in items if isinstance(item, Picture) and item.name == "timeline")
    title = picture.figure.axes[0].get_title(loc="left")
    assert title.startswith("since the run began, or was last resumed: ")


def test_of_very_many_blocks_some_are_drawn() -> None:
    blocks = MOST_CURVES + 100
    rows = [LayerRow(step, block, 0.5, None) for step in (1, 2) for block in (*range(blocks), -1)]
    items = learning(recorded(rows, []), 0.0, Shown()).items
    picture = next(item for item in items if isinstance(item, Picture))
    lines = len(picture.figure.axes[0].lines)
    assert lines <= MOST_CURVES
    assert picture.caption == f"{lines} of {blocks + 1} series, at even distances."


def test_grids_of_a_network_that_is_one_block() -> None:
    """By backpropagation; the second grid takes the channels of the first."""
    blocks = tuple(
        BlockConfig(kind="receptive-fields", options={"channels": channels, "kernel": 3}) for channels in (4, 5)
    )
    training = replace(
        get_recipe("hinton-lrf").training, blocks=blocks, method="backprop", data=Data(validation=97, test_count=100)
    )
    network = make_job(Config(training=training, execution=Execution(stages=1))).network
    found = _of_block(network.make(0, Workspace(torch.device("cpu"))), 0, (8, 8))
    assert [each.in_all for each in found] == [36 * 4, 16 * 5]
    assert [each.values.shape for each in found] == [(36, 3, 3), (48, 3, 3)]
    assert found[1].what.endswith("mean over 4 channels")


def test_letters_of_several_bytes_are_read_whole() -> None:
    text = "aß€\n".encode()
    assert letters(text) == ["a", "", "ß", "", "", "€", "\n"]
    assert letters(text[2:5]) == ["\\x9f", "", "\\xe2\\x82"]
    assert [letters([each]) for each in (0x41, 0xC3, 0xFF)] == [["A"], ["\\xc3"], ["\\xff"]]
    assert letters([]) == []
    # One byte of the second letter is missed.
    assert marked(letters(text), [False, True, *[False] * 5]) == [
        ("a", False), ("ß", True), ("€", False), ("\n", False)
    ]  # fmt: skip


def test_of_equal_scores_the_wrong_answer_is_the_one_that_is_counted() -> None:
    scores = torch.randint(0, 2, (40, 20), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.full((40,), 19)
    found = _mistakes(scores, labels, np.arange(40), by_goodness=True)
    assert found
    for each in found:
        left = scores[each.index].clone()
        assert each.answer == int(left.argmax())
        left[each.answer] = -torch.inf
        assert each.second == int(left.argmax())


def _wrong(data: Data, *indices: int) -> tuple[Any, Answers]:
    """Make as much of a trained network on data as tells where its mistakes are, and mistakes of these indices."""
    config = get_recipe("digits")
    config = replace(config, training=replace(config.training, data=data))
    mistakes = tuple(Mistake(index, 0, 1, 0.5, 2) for index in indices)
    answers = Answers("test", "last", (), np.zeros((0, 0), np.int64), mistakes, 0, 0, False)
    return SimpleNamespace(job=SimpleNamespace(config=config, splits=load_splits(data))), answers


@pytest.mark.parametrize("parts", [("train",), ("train", "test")])
def test_mistakes_on_pictures_are_named_by_their_files(parts: tuple[str, ...], tmp_path: Path) -> None:
    for part in parts:
        for row in range(40):
            path = tmp_path / part / f"class {row % 3}" / f"{part}-{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), row + 100 * (part == "test"), np.uint8)).save(path)
    test = (str(tmp_path / "test"),) if "test" in parts else ()
    data = Data(source="folder", train=(str(tmp_path / "train"),), test=test, test_count=0 if test else 9)
    trained, answers = _wrong(data, 5, 0)
    named_by, names = origins(trained, answers)
    assert named_by == "picture"
    for index, name in zip((5, 0), names, strict=True):
        with Image.open(tmp_path / parts[-1] / name) as image:
            found = np.asarray(image).flatten() / np.float32(255)
        assert found.tolist() == pytest.approx(trained.job.splits.test.images(np.array([index]))[0].tolist())


def test_mistakes_on_other_data_are_named_by_their_rows(tmp_path: Path) -> None:
    images = np.arange(80, dtype=np.uint8).reshape(20, 2, 2)
    np.savez(tmp_path / "one.npz", x=images, y=np.arange(20) % 2)
    trained, answers = _wrong(Data(source="npz", train=(str(tmp_path / "one.npz"),), test_count=5), 3, 1)
    named_by, names = origins(trained, answers)
    assert named_by == "row of the training part"
    raw = trained.job.splits.test.raw(np.array([3, 1]))
    assert raw.tolist() == images.reshape(20, 4)[[int(name) for name in names]].tolist()
    np.savez(tmp_path / "two.npz", x_train=images, y_train=np.arange(20) % 2, x_test=images, y_test=np.arange(20) % 2)
    assert origins(*_wrong(Data(source="npz", train=(str(tmp_path / "two.npz"),)), 3, 1)) == (
        "row of the test part",
        ("3", "1"),
    )

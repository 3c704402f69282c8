"""`ffpipe evaluate`: a run's own test split, and other labelled images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import refused
from numpy.typing import NDArray

import ffpipe
from ffpipe.commands.cli import main
from ffpipe.config.fields import read_config
from ffpipe.data.splits import load_splits
from ffpipe.system.errors import UserError

IMAGES, LABELS = np.random.default_rng(0).integers(0, 255, (5, 8, 8), np.uint8), np.arange(5, dtype=np.uint8)


def test_evaluate_prints_json(strangers_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((strangers_run / "summary.json").read_text())
    assert main(["evaluate", str(strangers_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "split": "test",
        "examples": 30,
        "errors": {"goodness": summary["test_error_goodness"], "softmax": summary["test_error_softmax"]},
    }


# Labelled images (n, 8, 8) from 0 to 1, on which a run is tested.
LABELLED: dict[str, Callable[[Path, NDArray[np.float32], NDArray[np.int64]], object]] = {
    "plain.npz": lambda path, images, labels: np.savez(path, x=images, y=labels),
    "test.npz": lambda path, images, labels: np.savez(path, x_test=images[:, None], y_test=labels),
    "both.npz": lambda path, images, labels: np.savez(
        path, x_train=images[:1], y_train=labels[:1], x_test=images, y_test=labels
    ),
    "pixels.csv": lambda path, images, labels: np.savetxt(
        path, np.column_stack([labels, images.reshape(-1, 64)]), "%.9g", ","
    ),
    "lists.parquet": lambda path, images, labels: pq.write_table(
        pa.table({"image": images.tolist(), "label": labels.astype(str)}), path
    ),
}


@pytest.mark.parametrize("name", LABELLED)
def test_evaluate_on_other_labelled_images(
    name: str, strangers_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the test split itself, so that what training said is right."""
    test = load_splits(read_config(strangers_run / "config.toml").training.data).test
    rows = np.arange(len(test))
    LABELLED[name](here / name, test.images(rows).reshape(-1, 8, 8), test.labels(rows))
    summary = json.loads((strangers_run / "summary.json").read_text())
    assert main(["evaluate", str(strangers_run), "--json", "--data", name]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "data": [name],
        "examples": 30,
        "errors": {"goodness": summary["test_error_goodness"], "softmax": summary["test_error_softmax"]},
    }


def test_of_a_folder_the_test_part_is_tested(
    strangers_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("train", 3), ("test", 2)):
        pq.write_table(pa.table({"image": IMAGES[:count].tolist(), "label": LABELS[:count]}), here / f"{name}.parquet")
    for data, count in ((".", 2), ("train.parquet", 3)):
        assert main(["evaluate", str(strangers_run), "--json", "--data", data]) == 0
        assert json.loads(capsys.readouterr().out)["examples"] == count
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "their test part is tested, or all of them where there is none" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "--data: there is no file or folder nowhere"),
        (["ten.npz"], "ten.npz: the label 10 at row 0 is not in 0..9"),
        (["fox.npz"], "fox.npz: labels are names such as 'fox'; expected integers"),
        (["small.npz"], "small.npz: its images have the shape (7, 7); expected (8, 8)"),
        (["bare.npz"], "bare.npz: expected the arrays"),
        (["nan.npz"], "nan.npz[1]: it holds NaN"),
        (["words.txt"], "--data is a text, but the run was trained on images"),
        (["folder"], "--data: folder/kind has no pictures: a.md is not PNG, JPEG, BMP, GIF or WebP"),
        (["ten.npz", "--split", "train"], "--split is about the run's own data, and --data names others"),
        (["ten.npz", "--data-dir", "."], "--data-dir is about the run's own data"),
        (["ten.npz", "--training.data.test", "a"], "--training.data.test is about the run's own data"),
    ],
)
def test_evaluate_refuses_other_images_in_a_line(
    arguments: list[str], says: str, strangers_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(here / "ten.npz", x=IMAGES, y=LABELS + 10)
    np.savez(here / "fox.npz", x=IMAGES, y=np.array(["fox"] * 5))
    np.savez(here / "small.npz", x=IMAGES[:, :7, :7], y=LABELS)
    np.savez(here / "bare.npz", x=IMAGES)
    np.savez(here / "nan.npz", x=np.where(np.arange(5)[:, None, None] == 1, np.nan, IMAGES / 255), y=LABELS)
    (here / "words.txt").write_text("words")
    (here / "folder" / "kind").mkdir(parents=True)
    (here / "folder" / "kind" / "a.md").write_text("words")
    refused(["evaluate", str(strangers_run), "--data", *arguments], says, capsys)


def test_columns_of_pixels_stand_as_in_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def table(name: str, order: list[int]) -> str:
        columns = {f"p{at}": at * 60 + np.arange(40) % 7 for at in order}
        pq.write_table(pa.table({"label": np.arange(40) % 2, **columns}), here / name)
        return name

    train, same, other = (
        table("train.parquet", [*range(4)]),
        table("a.parquet", [*range(4)]),
        table("b.parquet", [0, 2, 1, 3]),
    )
    asked = ["--engine", "local", "--epochs", "1", "--training.batch-size", "4", "--run-dir", "run"]
    assert main(["train", "digits", "--data", train, *asked]) == 0
    assert main(["evaluate", "run", "--data", same]) == 0
    assert len(ffpipe.predict("run", same)) == 40
    says = "b.parquet: its columns of pixels are not those of "
    refused(["evaluate", "run", "--data", other], says, capsys)
    with pytest.raises(UserError, match=says):
        ffpipe.predict("run", other)
    # As where a run was copied alone.
    (here / "train.parquet").unlink()
    assert main(["evaluate", "run", "--data", other]) == 0

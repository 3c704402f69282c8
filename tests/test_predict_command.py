"""`ffpipe predict`: images of every form, and where their classes go."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from commands import refused
from forms import encode
from numpy.typing import NDArray

import ffpipe
from ffpipe.commands.cli import main

IMAGES = np.random.default_rng(0).integers(0, 255, (5, 8, 8), np.uint8)
Array = NDArray[np.uint8]


def csv_of(*columns: Array, header: str = "") -> Callable[[Path], None]:
    return lambda path: np.savetxt(
        path, np.column_stack(columns), "%d", ",", header=header, comments=""
    )  # fmt: skip


def table_of(write: Callable[..., object], **columns: object) -> Callable[[Path], object]:
    return lambda path: write(pa.table(columns), path)


FLAT, LABELS = IMAGES.reshape(5, 64), np.arange(5, dtype=np.uint8)
ENCODED = [{"bytes": encode(image), "path": None} for image in IMAGES]
PIXELS = ",".join(f"p{index}" for index in range(64))
FORMS: dict[str, Callable[[Path], object]] = {
    "all.npy": lambda path: np.save(path, IMAGES),
    "encoded.parquet": table_of(pq.write_table, image=ENCODED),
    "encoded and named.parquet": table_of(pq.write_table, image=ENCODED, label=list("abcde"), id=list(range(5))),
    "lists.parquet": table_of(pq.write_table, pixels=[image.tolist() for image in IMAGES], label=LABELS),
    "pixels.parquet": table_of(pq.write_table, **{f"p{index}": FLAT[:, index] for index in range(64)}),
    "one-hot.parquet": table_of(pq.write_table, image=FLAT.tolist(), label=np.eye(5, dtype=int).tolist()),
    "lists.arrow": table_of(feather.write_feather, image=FLAT.tolist()),
    "pixels.csv": csv_of(FLAT),
    "labels first.csv": csv_of(LABELS, FLAT),
    "headed.csv": csv_of(FLAT, header=PIXELS),
    "columns that pandas numbered.csv": csv_of(FLAT, header=",".join(map(str, range(64)))),
    "rows that pandas numbered.csv": csv_of(LABELS[:, None], FLAT, header=f",{PIXELS}"),
    "headed and labelled.csv": csv_of(FLAT, LABELS, header=f"{PIXELS},class"),
    "one.npz": lambda path: np.savez(path, anything=IMAGES),
    "labelled.npz": lambda path: np.savez_compressed(path, images=IMAGES, labels=LABELS),
    "with a training part.npz": lambda path: np.savez(path, x_train=IMAGES[::-1], y_train=LABELS, X_test=IMAGES),
    "by columns.npz": lambda path: np.savez(path, x=np.asfortranarray(IMAGES)),
    "flat.npz": lambda path: np.savez(path, x=FLAT.astype(np.int64)),
}


def predicted(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, str]:
    """Return what the command prints of each image, by its name."""
    capsys.readouterr()
    assert main(["predict", *arguments]) == status
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


@pytest.fixture(scope="module")
def answers(strangers_run: Path) -> list[str]:
    """Return the classes of the images."""
    network = ffpipe.load(strangers_run)
    torch = sys.modules["torch"]
    return [str(int(network(torch.from_numpy(image[None])).argmax())) for image in IMAGES]


@pytest.mark.parametrize("name", FORMS)
def test_images_of_every_form(
    name: str, here: Path, strangers_run: Path, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    FORMS[name](here / name)
    found = predicted(capsys, str(strangers_run), name)
    assert found == {f"{name}[{index}]": answer for index, answer in enumerate(answers)}


def test_a_folder_is_read_recursively_and_in_order(
    here: Path, strangers_run: Path, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["pics/B.PNG", "pics/a.png", "pics/a/9.png", "pics/a/z/0.png", "pics/b.png"]
    for name, image in zip(names, IMAGES, strict=True):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(encode(image))
    (here / "pics" / "notes.txt").write_text("no picture")
    (here / "pics" / ".hidden.png").write_text("hidden")
    (here / "pics" / "b").mkdir()
    (here / "pics" / "b" / "up").symlink_to(here / "pics")
    found = predicted(capsys, str(strangers_run), "pics")
    assert list(found) == ["pics/B.PNG", "pics/a/9.png", "pics/a/z/0.png", "pics/a.png", "pics/b.png"]
    assert found == dict(zip(names, answers, strict=True))
    (here / "pics" / "a" / "8.png").write_text("broken")
    os.mkfifo(here / "pics" / "pipe.png")
    capsys.readouterr()
    assert main(["predict", str(strangers_run), "pics"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert [word for line in err.splitlines() for word in line.split() if "pics/" in word] == [
        "pics/a/8.png:",
        "pics/pipe.png:",
    ]


def test_paths_come_from_standard_input(
    here: Path, strangers_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [b"a.png", b"of two words.png", b"\xff.png"]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(encode(IMAGES[0]))
    given = b"a.png\n\nof two words.png\r\n\xff.png\nabsent.png\n" + b"x" * 200_000
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    capsys.readouterr()
    assert main(["predict", str(strangers_run), "-", "a.png"]) == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == ["a.png", "of two words.png", "\\udcff.png", "a.png"]
    assert "absent.png" in err.splitlines()[0]
    assert all("Traceback" not in line and len(line) < 2100 for line in err.splitlines())


def test_the_likeliest_classes_with_their_probabilities(
    here: Path, strangers_run: Path, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "all.npy", IMAGES)
    for top in (1, 3, 10, 50):
        for (where, said), answer in zip(
            predicted(capsys, str(strangers_run), "all.npy", "--top", str(top)).items(), answers, strict=True
        ):
            pairs = [each.split() for each in said.split(", ")]
            shares = [float(share.rstrip("%")) for _, share in pairs]
            assert where.startswith("all.npy[")
            assert (pairs[0][0], len(pairs)) == (answer, min(top, 10))
            assert shares == sorted(shares, reverse=True)
            assert top < 10 or math.isclose(sum(shares), 100, abs_tol=0.06)


def test_a_share_of_goodness_is_called_one(here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(here / "all.npy", IMAGES)
    arguments = ["predict", str(strangers_run), "all.npy"]
    for more, noted in (
        (["--top", "2"], False),
        (["--readout", "goodness"], False),
        (["--readout", "goodness", "--top", "2"], True),
        (["--readout", "goodness", "--out", "found.csv"], True),
    ):
        assert main([*arguments, *more]) == 0
        err = capsys.readouterr().err
        assert ("softmax of goodness" in err) == noted
        assert err.count("\n") == noted


def test_the_rest_is_written_where_some_cannot_be_read(
    here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "some.npy", np.where(np.arange(3 * 64).reshape(3, 8, 8) == 70, np.nan, 0.5))
    (here / "text.png").write_text("no picture")
    encoded = [*ENCODED[:2], {"bytes": b"broken", "path": None}, *ENCODED[3:]]
    pq.write_table(pa.table({"image": encoded}), here / "cut.parquet")
    command = ["predict", str(strangers_run), "text.png", "some.npy", "cut.parquet", "--out", "found.jsonl"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "wrote 6 predictions" in out
    assert [line.split(": ")[0] for line in err.splitlines()] == ["ffpipe"] * 3
    for line, said in zip(
        err.splitlines(), ["text.png", "some.npy[1]", "cut.parquet: the image at row 2 cannot be decoded"], strict=True
    ):
        assert said in line
    rows = [json.loads(line) for line in (here / "found.jsonl").read_text().splitlines()]
    expected = [("some.npy", 0), ("some.npy", 2), *(("cut.parquet", index) for index in (0, 1, 3, 4))]
    assert [(row["path"], row["index"]) for row in rows] == expected


@pytest.mark.parametrize("bad", [(0,), (4,), (0, 1, 4), (1, 3)])
def test_bad_pictures_of_a_table_are_left_out_alone(
    bad: tuple[int, ...], here: Path, strangers_run: Path, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged, absent or of another size, wherever in the table they are."""
    large = {"bytes": encode(np.zeros((9, 9), np.uint8)), "path": None}
    for other, says in (
        ({"bytes": b"no", "path": None}, "cannot be decoded"),
        (None, "is null"),
        (large, "81 numbers"),
    ):
        pq.write_table(
            pa.table({"image": [other if index in bad else each for index, each in enumerate(ENCODED)]}),
            here / "some.parquet",
        )
        status = main(["predict", str(strangers_run), "some.parquet"])
        out, err = capsys.readouterr()
        if bad[0] == 0 and other is large:  # all are expected to be as the first
            assert (status, out, err.count("\n")) == (2, "", 1)
            continue
        good = [index for index in range(5) if index not in bad]
        assert out.splitlines() == [f"some.parquet[{index}]: {answers[index]}" for index in good]
        assert status == 2
        for line, index in zip(err.splitlines(), bad, strict=True):
            assert line.startswith("ffpipe: some.parquet")
            assert f"at row {index}" in line
            assert says in line


def test_standard_input_may_name_no_image(
    here: Path, strangers_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    command = ["predict", str(strangers_run), "-", "--out", "found.csv"]
    refused(command, "standard input names no image: give paths on it, a line for each", capsys)
    assert list(here.iterdir()) == []


def test_standard_input_may_be_closed(
    strangers_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    refused(["predict", str(strangers_run), "-"], "standard input is closed", capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--out", "found.txt"], "--out is 'found.txt': give a file that ends in .csv, .json, .jsonl"),
        (["--out", "found"], "ends in .csv, .json, .jsonl"),
        (["--out", "a.png"], "ends in .csv"),
        (["--out", "there.csv"], "there.csv exists"),
        (["--out", "link.csv"], "link.csv exists"),
        (["--out", "nowhere/found.csv"], "nowhere is not a folder"),
        (["--out", "~nosuchuser/found.csv"], "a home folder that is not known"),
        (["--top", "0"], "--top is '0': give a whole number from 1 to 1,000,000"),
        (["--top", "-1"], "--top"),
        (["--top", "two"], "--top is 'two'"),
        (["--top", "9" * 5000], "give a whole number"),
        (["--readout", "best"], "readout is 'best'"),
    ],
)
def test_wrong_requests(
    more: list[str], says: str, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "a.png").write_bytes(encode(IMAGES[0]))
    (here / "there.csv").write_text("mine")
    (here / "link.csv").symlink_to("nowhere.csv")
    refused(["predict", str(strangers_run), "a.png", *more], says, capsys)
    assert (here / "there.csv").read_text() == "mine"
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "link.csv", "there.csv"]


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.mkdir(), "the folder has neither a picture"),
    "small.csv": (csv_of(IMAGES[0]), "expected 64 numbers"),
    "words.csv": (lambda path: path.write_text("a,b\nc,d\n"), "words.csv"),
    "empty.csv": (lambda path: path.touch(), "it is empty"),
    "wide.parquet": (table_of(pq.write_table, image=[[1] * 65]), "expected 64 numbers"),
    "two.parquet": (table_of(pq.write_table, a=FLAT.tolist(), b=FLAT.tolist()), "has to name the column of images"),
    "none.parquet": (table_of(pq.write_table, image=pa.array([], pa.list_(pa.int32()))), "none.parquet"),
    "cut.parquet": (lambda path: path.write_bytes(b"PAR1" + b"\0" * 50), "cut.parquet: cannot be read"),
    "cut.npz": (lambda path: path.write_bytes(b"PK\3\4" + b"\0" * 50), "cut.npz: cannot be read"),
    "none.npz": (lambda path: np.savez(path, x=IMAGES[:0]), "none.npz: there is no image in it"),
    "none.npy": (lambda path: np.save(path, IMAGES[:0]), "none.npy: it has shape (0, 8, 8)"),
    "wide.npz": (lambda path: np.savez(path, x=np.zeros((3, 65))), "it has x (3, 65)"),
    "two.npz": (lambda path: np.savez(path, a=IMAGES, b=IMAGES), "it has a (5, 8, 8), b (5, 8, 8)"),
    "words.npz": (lambda path: np.savez(path, x=np.array([["a"] * 64])), "expected an array of images"),
    "objects.npz": (lambda path: np.savez(path, x=np.array([[None] * 64])), "expected an array of images"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_without_such_images(
    name: str, here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, says = BAD[name]
    make(here / name)
    refused(["predict", str(strangers_run), name], says, capsys)

"""`ffpipe data`, and what names of classes are used for in a run on data of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from PIL import Image

from ffpipe.commands.cli import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders of pictures: bright above, and bright below."""
    chance = np.random.default_rng(0)
    for row in range(120):
        pixels = chance.integers(0, 90, (8, 8), np.uint8)
        name = ("above", "below [1]")[row % 2]
        pixels[slice(0, 4) if row % 2 == 0 else slice(4, 8)] += 150
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / name / f"{row:03d}.png")
    return tmp_path / "set"


def test_what_it_shows(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(pictures), "--png", str(tmp_path / "samples.png")]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for said in (
        "source folder",
        "shape of an image 8 x 8",
        "uint8, divided by 255: 0 to 0.9",
        "96 training, 12 validation, 12 test",
        "classes 0 to 1 are above, below [1]",
    ):
        assert said in words
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.size == (10 * 9, 2 * 9)
    refused(["data", str(pictures), "--png", str(tmp_path / "samples.png")], "exists: give a new file", capsys)


@pytest.mark.parametrize(
    ("png", "says"),
    [
        ("there.png", "there.png exists: give a new file"),
        ("link.png", "link.png exists"),
        ("nowhere/samples.png", "nowhere is not a folder"),
        ("~nosuchuser/samples.png", "a home folder that is not known"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_data_are_read(
    png: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "there.png").touch()
    (here / "link.png").symlink_to("nowhere.png")
    refused(["data", "--png", png, "absent.csv"], says, capsys)
    assert sorted(path.name for path in here.iterdir()) == ["link.png", "there.png"]


def test_a_picture_in_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert main(["data", "--png", "~/samples.png"]) == 0
    assert [path.name for path in here.iterdir()] == ["samples.png"]


def test_large_pictures_are_shown_smaller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "large.npz", x=np.zeros((8, 300, 600), np.uint8), y=np.arange(8) % 2)
    assert main(["data", str(tmp_path / "large.npz"), "--png", str(tmp_path / "samples.png")]) == 0
    assert "300 x 600" in capsys.readouterr().out
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.size == (10 * (200 + 1), 2 * (100 + 1))


def test_known_sets_by_the_name_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    assert "1,797" in capsys.readouterr().out
    assert main(["data", "digits", "--training.data.test-count", "7"]) == 0
    assert "7 test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no file or folder nowhere"),
        (["digits", "--training.data.scale", "-1"], "training.data.scale"),
        (
            ["digits", "--training.data.test-count", "x"],
            "ffpipe: training.data.test_count: expected int, got str",
        ),
        (["--rows", "3"], "unknown option"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["data", *arguments], message, capsys)


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"], ["plan"]])
def test_a_network_for_other_images_names_those_that_fit(
    command: list[str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--run-dir", str(tmp_path / "run")] if command == ["train"] else []
    place = ["--engine", "local", "--training.batch-size", "12", *folder]
    assert main([command[0], "hinton-lrf", *command[1:], "--data", str(pictures), *place]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ffpipe: block 0 (receptive-fields): kernel is 10, larger than rows of ")
    assert said.endswith("; hinton-lrf is for other images: digits-cnn and mnist-cnn fit any\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "source", "says"),
    [
        ("cwcomp", "text", "; cwcomp is for images: char-lm takes texts"),
        ("char-lm", "npz", "; char-lm is for texts: digits-cnn and mnist-cnn take images"),
        ("dgl", "digits", "training.mean has 3 number(s), but an image of shape (8, 8) has 1 channel(s): "),
        ("dgl", "digits", "; dgl is for other images: digits-cnn and mnist-cnn fit any"),
        ("hinton-lrf", "digits", "; hinton-lrf is for other images: digits-cnn and mnist-cnn fit any"),
    ],
)
def test_a_recipe_with_another_source_names_those_that_fit(
    recipe: str, source: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = ["--training.data.validation", "100", "--training.data.test-count", "100"]
    assert main(["train", recipe, "--dry-run", "--training.data.source", source, *aside]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_pictures_from_training_to_predictions(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a convolutional recipe and a dense one, neither of which is told of sizes or classes."""
    for recipe in ("digits", "digits-cnn"):
        run = str(tmp_path / recipe)
        place = ["--engine", "local", "--stages", "1", "--epochs", "8", "--run-dir", run]
        assert main(["train", recipe, "--data", str(pictures), *place, "--training.batch-size", "12"]) == 0
        assert "data: 120 images of 8 x 8, 2 classes; classes 0 to 1 are above, below [1]" in capsys.readouterr().out
        assert main(["predict", run, *(str(pictures / name) for name in ("above/000.png", "below [1]/001.png"))]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.rpartition(": ")[2] for line in lines] == ["above", "below [1]"]
        assert main(["evaluate", run]) == 0
        assert "(12 examples)" in capsys.readouterr().out
        # Classes are found by name: the second is the only one of these pictures. Half of them are of the first.
        mixed = tmp_path / f"mixed-{recipe}" / "below [1]"
        shutil.copytree(pictures / "above", mixed)
        shutil.copytree(pictures / "below [1]", mixed, dirs_exist_ok=True)
        (mixed / "notes.txt").write_text("mine")
        assert main(["evaluate", run, "--data", str(mixed.parent)]) == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"error on {mixed.parent}: 50.00% by ")
        assert said.out.endswith("(120 examples)\n")
        assert (
            said.err
            == f"warning: 1 file(s) that are not pictures are left out, of which {mixed}/notes.txt is the first\n"
        )
        mixed.rename(mixed.parent / "fox")
        says = "the label 'fox' at row 0 is none of the training part's classes: above, below [1]"
        refused(["evaluate", run, "--data", str(mixed.parent)], says, capsys)
        assert main(["resume", run, "--epochs", "9"]) == 0
        assert main(["export", run, str(tmp_path / f"{recipe}.safetensors")]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("command", ["data", "train"])
def test_a_text_may_have_any_name_where_its_source_is_given(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.md"
    file.write_text("to be or not to be\n" * 400)
    asked = ["data", str(file)] if command == "data" else ["train", "char-lm", "--dry-run", "--data", str(file)]
    refused(asked, "name a table .csv and a text .txt, or give --training.data.source csv or text", capsys)
    assert main([*asked, "--training.data.source", "text"]) == 0
    assert "text" in capsys.readouterr().out


def test_a_text_has_sequences_and_symbols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be " * 40)
    data = {"train": str(tmp_path / "a.txt"), "length": "7", "validation": "8", "test-count": "9"}
    options = [word for name, value in data.items() for word in (f"--training.data.{name}", value)]
    assert main(["data", "char-lm", *options]) == 0
    said = capsys.readouterr().out
    assert "7 characters, each told from those before it" in said
    assert "91 training, 8 validation, 9 test" in said
    assert "data: 108 sequences of 8, 7 symbols" in said
    assert "class" not in said
    # By its name alone, as it is given for any other data.
    assert main(["data", str(tmp_path / "a.txt"), "--training.data.length", "7"]) == 0
    assert "sequences of 8, 7 symbols" in capsys.readouterr().out
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 400)
    refused(["data", str(tmp_path / "latin.txt")], "UTF-8", capsys)

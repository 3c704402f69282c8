"""Folders as people give them: of one class too few, above those of the classes, with runs beside the data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import ffpipe
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Data
from ffpipe.data.below import files_below, is_of_runs
from ffpipe.data.discover import Found, discover, on
from ffpipe.data.splits import Splits, load_splits
from ffpipe.system.errors import UserError


def picture(path: Path, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Make two classes of ten pictures."""
    for row in range(20):
        picture(tmp_path / "mine" / ("cat", "dog")[row % 2] / f"{row}.png")
    return tmp_path / "mine"


def run_folder(path: Path) -> Path:
    """Make what is left of a run with a table and a picture in it, which would be read as data."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.toml").write_text("")
    (path / "metrics.parquet").write_bytes(b"PAR1")
    picture(path / "pictures" / "curve.png")
    return path


def read(found: Found) -> Splits:
    return load_splits(on(get_recipe("digits-cnn"), found).training.data)


def test_a_class_without_pictures_is_said(mine: Path) -> None:
    (mine / "emu" / "later").mkdir(parents=True)
    splits = read(discover([str(mine)]))
    assert splits.names == ("cat", "dog")
    assert "warning: no picture is in emu, so no class is made of it" in splits.found
    picture(mine / "emu" / "1.png")
    splits = read(discover([str(mine)]))
    assert splits.names == ("cat", "dog", "emu")
    assert not any("emu, so" in line for line in splits.found)


def test_files_that_are_not_pictures_are_left_out_with_a_warning(mine: Path) -> None:
    without = read(discover([str(mine)]))
    (mine / "dog" / "Thumbs.db").write_bytes(b"\0")
    (mine / "dog" / "README").write_text("my dogs")
    (mine / "cat" / "notes.txt").write_text("what I saw")
    (mine / "cat" / ".DS_Store").write_bytes(b"\0")
    (mine / "cat" / "0.png").rename(mine / "cat" / "0")  # known by its first bytes
    splits = read(discover([str(mine)]))
    first = mine / "cat" / "notes.txt"
    said = f"warning: 3 file(s) that are not pictures are left out, of which {first} is the first"
    assert splits.found[1:] == (said,)
    assert splits.names == ("cat", "dog")
    for mended, before in ((splits.train, without.train), (splits.test, without.test)):
        assert len(mended) == len(before)


def test_links_that_lead_nowhere_are_said(mine: Path, tmp_path: Path) -> None:
    (mine / "dog" / "99.png").symlink_to(tmp_path / "unmounted" / "99.png")
    (found,) = (line for line in read(discover([str(mine)])).found if line.startswith("warning"))
    assert "1 link(s) lead nowhere, of which" in found
    assert "99.png is the first" in found
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.csv").write_text("label,x,y\n0,1,2\n1,1,2\n")
    (tmp_path / "shards" / "1.csv").symlink_to(tmp_path / "unmounted" / "1.csv")
    with pytest.raises(UserError, match=r"1\.csv"):
        read(discover([str(tmp_path / "shards")]))


def test_a_link_that_moves_to_another_class_takes_its_label_with_it(mine: Path, tmp_path: Path) -> None:
    """The file that it leads to stays as it is."""
    picture(tmp_path / "elsewhere.png")
    (mine / "cat" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    data = Data(source="folder", train=(str(mine),), validation=0, test_count=1, split_seed=-1)
    before = np.bincount(load_splits(data).train.stored.labels(np.arange(21)))
    (mine / "cat" / "link.png").rename(mine / "dog" / "link.png")
    after = np.bincount(load_splits(data).train.stored.labels(np.arange(21)))
    assert (after - before).tolist() == [-1, 1]
    (mine / "cat").rename(mine / "ant")
    assert load_splits(data).names == ("ant", "dog")


def test_what_torchvision_unpacked_goes_before_what_it_downloaded(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            for ending in ("", ".gz"):
                (tmp_path / f"{part}-{kind}-ubyte{ending}").write_bytes(b"\0\0\x08\x01\0\0\0\0")
    found = discover([str(tmp_path)])
    assert [Path(name).name for name in found.train] == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    assert [Path(name).name for name in found.test] == ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def test_deep_nesting_in_what_datasets_saved_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="neither data in a known format"):
        discover([str(tmp_path)])
    schema = pa.schema([("image", pa.list_(pa.uint8())), ("label", pa.int64())], {"huggingface": "[" * 200_000})
    pq.write_table(schema.empty_table(), tmp_path / "deep.parquet")
    with pytest.raises(UserError, match="there are no examples"):
        read(discover([str(tmp_path / "deep.parquet")]))


def test_files_that_are_left_out_of_a_test_part_are_said_too(mine: Path) -> None:
    mine.rename(mine.parent / "train")
    picture(mine.parent / "test" / "cat" / "1.png")
    (mine.parent / "test" / "cat" / "notes.txt").write_text("what I saw")
    assert "1 file(s) that are not pictures are left out" in read(discover([str(mine.parent)])).found[1]


def test_data_are_given_from_python_as_on_the_command_line(mine: Path) -> None:
    """mnist-cnn splits a mixed set by position; these are sorted by class."""
    recipe = get_recipe("mnist-cnn")
    config = ffpipe.with_data(recipe, mine)
    assert config == ffpipe.with_data(recipe, [str(mine)]) == on(recipe, discover([str(mine)]))
    by_hand = {
        "training.data.source": "folder",
        "training.data.train": [str(mine)],
        "training.data.validation": 3,
        "training.data.test_count": 4,
    }
    data = ffpipe.override(recipe, by_hand).training.data
    said = [line for line in load_splits(data).found if "all of one class" in line]
    assert len(said) == 2
    assert all("give training.data.split_seed 0" in line for line in said)
    assert said[1].startswith("warning: the 4 examples set aside to test on are the last ones")
    assert not any("one class" in line for line in load_splits(replace(data, split_seed=0)).found)
    with pytest.raises(UserError, match="there is no file or folder nowhere"):
        ffpipe.with_data(recipe, "nowhere")


def test_a_class_without_any_picture_among_its_files_is_refused(mine: Path) -> None:
    (mine / "notes").mkdir()
    (mine / "notes" / "a.txt").write_text("what I saw")
    with pytest.raises(UserError, match=r"notes has no pictures: a\.txt is not PNG, JPEG, BMP, GIF or WebP; expected"):
        read(discover([str(mine)]))


@pytest.mark.parametrize("runs", ["runs/one", "runs/here/one", "a-run"])
def test_runs_beside_pictures_are_left_out(runs: str, mine: Path) -> None:
    run_folder(mine / runs)
    splits = read(discover([str(mine)]))
    assert splits.names == ("cat", "dog")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 20
    assert f"{Path(runs).parts[0]} is left out: it has runs and no pictures" in splits.found[0]


def test_runs_among_tables_are_left_out(tmp_path: Path) -> None:
    run_folder(tmp_path / "runs" / "one")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "set.csv").write_text("label,p\n" + "0,1\n1,2\n" * 10)
    assert discover([str(tmp_path)]) == Found("csv", (str(tmp_path / "tables" / "set.csv"),))


def test_the_folder_above_that_of_the_classes(mine: Path) -> None:
    run_folder(mine.parent / "runs" / "one")
    (mine / "README.md").write_text("two classes")
    assert discover([str(mine.parent)]) == Found("folder", (str(mine),))


def test_a_folder_of_runs_has_nothing_else(tmp_path: Path) -> None:
    run_folder(tmp_path / "runs" / "one")
    assert is_of_runs(tmp_path / "runs")
    assert is_of_runs(tmp_path / "runs" / "one")
    assert files_below(tmp_path) == []
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    assert not is_of_runs(tmp_path / "runs")
    assert files_below(tmp_path) == [tmp_path / "runs" / "notes.txt"]
    (tmp_path / "none").mkdir()
    assert not is_of_runs(tmp_path / "none")


def test_pictures_of_several_sizes_get_a_size_to_type(mine: Path) -> None:
    picture(mine / "dog" / "wide.png", (5, 9))
    with pytest.raises(
        UserError, match=r"has \(4, 4\): give pictures of one size, or train .* --training\.data\.size 4 4$"
    ):
        read(discover([str(mine)]))


@pytest.mark.parametrize("name", ["colour.jpg", "colour"])
def test_colours_are_seen_behind_a_long_profile(name: str, mine: Path) -> None:
    """It stands before the header with the size and the colours."""
    Image.new("RGB", (4, 4), (255, 0, 0)).save(mine / "dog" / name, "JPEG", icc_profile=bytes(200_000))
    splits = read(discover([str(mine)]))
    assert (len(splits.train.stored), splits.shape) == (21, (4, 4, 3))


def test_names_of_classes_can_be_written_down(mine: Path) -> None:
    """A name of a folder need not be UTF-8, and what is in a manifest is."""
    os.rename(mine / "cat", os.fsencode(mine) + b"/caf\xe9")
    assert read(discover([str(mine)])).names == ("caf\\udce9", "dog")


@pytest.mark.parametrize("names", [("cat", "cat "), ("1", "1.0")])
def test_folders_that_would_be_one_class_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        picture(tmp_path / "some" / name / "a.png")
    with pytest.raises(UserError, match=f"the folders '{names[0]}' and '{names[1]}' stand for one class: rename one"):
        read(discover([str(tmp_path / "some")]))


def test_long_numbers_are_names_of_classes(mine: Path) -> None:
    (mine / "cat").rename(mine / "1234567")
    (mine / "dog").rename(mine / "20261130")
    assert read(discover([str(mine)])).names == ("1234567", "20261130")


def test_what_is_one_level_too_deep(mine: Path) -> None:
    with pytest.raises(UserError, match="has pictures but no classes: give a folder that has a folder for each class"):
        discover([str(mine / "cat")])
    with pytest.raises(UserError, match="is one picture: give the folder that has a folder of pictures for each class"):
        discover([str(mine / "cat" / "0.png")])


def test_texts_and_pictures_go_to_recipes_for_them(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a text of mine " * 100)
    with pytest.raises(UserError, match="--data is a text, but digits-cnn trains on images: give char-lm"):
        on(get_recipe("digits-cnn"), discover([str(tmp_path / "mine.txt")]))
    with pytest.raises(UserError, match="--data are pictures, but char-lm trains on tokens: give digits-cnn"):
        on(get_recipe("char-lm"), discover([str(mine)]))


@pytest.mark.parametrize(
    ("name", "is_test"),
    [
        ("test.csv", True),
        ("val.csv", True),
        ("valset.csv", True),
        ("Val_1.csv", True),
        ("validation.csv", True),
        ("dev-00000-of-1.csv", True),
        ("values.csv", False),
        ("devices.csv", False),
    ],
)
def test_a_test_part_is_known_by_its_name(name: str, is_test: bool, tmp_path: Path) -> None:
    for each in ("train.csv", name):
        (tmp_path / each).write_text("label,a\n" + "".join(f"{row % 2},{row}\n" for row in range(20)))
    found = discover([str(tmp_path)])
    assert [Path(each).name for each in found.test] == ([name] if is_test else [])

"""Parts and files of one data set that say the same in different ways, and those that only seem to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forms import encode
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data.inputs import open_images
from ffpipe.data.scale import Given
from ffpipe.data.splits import Splits, load_splits
from ffpipe.system.errors import UserError

# An animal and the only number that its pictures have.
GREY = {"bird": 10, "cat": 20, "dog": 30}


def animals(path: Path, names: tuple[str, ...], which: list[str], words: bool = False) -> str:
    """Write pictures of animals, labelled by their places among the names as `datasets` does it, or in words."""
    labels = which if words else [names.index(animal) for animal in which]
    table = pa.table({"image": [encode(np.full((2, 2), GREY[animal], np.uint8)) for animal in which], "label": labels})
    if not words:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return str(path)


def seen(splits: Splits) -> dict[str, set[str]]:
    """Return which names the pictures of each animal have in both parts."""
    of_grey = {grey: animal for animal, grey in GREY.items()}
    found: dict[str, set[str]] = {}
    for part in (splits.train, splits.test):
        rows = np.arange(len(part))
        greys = np.rint(part.images(rows)[:, 0] * 255).astype(int)
        for grey, label in zip(greys, part.labels(rows), strict=True):
            found.setdefault(of_grey[grey], set()).add(splits.names[label])
    return found


@pytest.mark.parametrize(("train_words", "test_words"), [(False, False), (True, False), (False, True)])
def test_classes_of_a_test_part_are_found_by_name(train_words: bool, test_words: bool, tmp_path: Path) -> None:
    train = animals(tmp_path / "train.parquet", ("bird", "cat", "dog"), ["bird", "cat", "dog"] * 4, train_words)
    test = animals(tmp_path / "test.parquet", ("cat", "dog"), ["dog", "cat", "dog"], test_words)
    splits = load_splits(Data(source="parquet", train=(train,), test=(test,), validation=0))
    assert seen(splits) == {animal: {animal} for animal in GREY}


def test_files_of_one_part_have_the_same_names_of_classes(tmp_path: Path) -> None:
    files = (
        animals(tmp_path / "a.parquet", ("cat", "dog"), ["cat", "dog"]),
        animals(tmp_path / "b.parquet", ("bird", "cat"), ["bird", "cat"]),
    )
    with pytest.raises(UserError, match=r"b\.parquet: the numbers in 'label' stand for bird, cat, those .* dog;"):
        load_splits(Data(source="parquet", train=files, test_count=1))


def test_numbers_in_one_file_and_words_in_another_are_the_same_classes(tmp_path: Path) -> None:
    for name, labels in (("a", "012012"), ("b", "01A01A")):
        (tmp_path / f"{name}.csv").write_text("label,x,y\n" + "".join(f"{label},1,2\n" for label in labels))
    data = Data(source="csv", train=(str(tmp_path / "a.csv"), str(tmp_path / "b.csv")), validation=0, test_count=1)
    assert load_splits(data).names == ("0", "1", "2", "A")


def test_a_class_may_have_the_name_of_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,x,y\n" + "NA,1,2\nnull,3,4\n" * 5)
    assert load_splits(Data(source="csv", train=(str(tmp_path / "a.csv"),), test_count=1)).names == ("NA", "null")


def pixels(path: Path, order: list[int]) -> str:
    """Write images with a column a pixel, named p0 to p3, which hold their numbers, in some order."""
    pq.write_table(pa.table({"label": [0, 1] * 5, **{f"p{at}": [at / 4] * 10 for at in order}}), path)
    return str(path)


def test_columns_of_pixels_stand_in_one_order_in_both_parts(tmp_path: Path) -> None:
    train, same = pixels(tmp_path / "a.parquet", [0, 1, 2, 3]), pixels(tmp_path / "b.parquet", [0, 1, 2, 3])
    load_splits(Data(source="parquet", train=(train,), test=(same,), validation=0))
    other = pixels(tmp_path / "c.parquet", [0, 2, 1, 3])
    with pytest.raises(UserError, match=r"c\.parquet: its columns of pixels are not those of .*: 'p2' stands where"):
        load_splits(Data(source="parquet", train=(train,), test=(other,), validation=0))


def test_a_line_of_a_csv_may_be_longer_than_a_megabyte(tmp_path: Path) -> None:
    line = ",".join(["0.5".ljust(600, "0")] * 2_000)
    (tmp_path / "wide.csv").write_text("".join(f"{row % 2},{line}\n" for row in range(3)))
    splits = load_splits(Data(source="csv", train=(str(tmp_path / "wide.csv"),), validation=0, test_count=1))
    assert (len(splits.train), splits.features) == (2, 2_000)


def test_pictures_and_known_sets_have_a_scale_that_is_left_alone(tmp_path: Path) -> None:
    train = animals(tmp_path / "train.parquet", ("bird", "cat", "dog"), ["bird", "cat", "dog"] * 4)
    splits = load_splits(Data(source="parquet", train=(train,), scale=100.0, validation=0, test_count=1))
    assert "warning: training.data.scale is left alone: these images are divided by 255" in splits.found
    assert splits.given == Given("u", 255.0, True)
    # The same numbers as an array are divided as they were in training.
    found = [value(tmp_path / name, splits.given, 100.0) for name in ("one.npy", "one.png")]
    assert found == [np.float32(51 / 255)] * 2


def test_pictures_are_divided_as_the_bytes_were_that_a_network_learned_from(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.full((10, 2, 2), 51, np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(10) % 2)
    files = (str(tmp_path / "images.npy"), str(tmp_path / "labels.npy"))
    given = load_splits(Data(source="npy", train=files, scale=100.0, validation=0, test_count=1)).given
    assert [value(tmp_path / name, given, 100.0) for name in ("one.npy", "one.png")] == [np.float32(0.51)] * 2
    # A known set, which is divided by what is known of it.
    assert [value(tmp_path / name, Given(), 100.0) for name in ("one.npy", "one.png")] == [np.float32(51 / 255)] * 2
    # Images of zeros and ones say nothing of pictures.
    assert value(tmp_path / "one.png", Given("u", 1.0), 0.0) == np.float32(51 / 255)


def value(path: Path, given: Given, asked: float) -> np.float32:
    """Write an image of the number 51, and read what a network is given."""
    image: NDArray[np.uint8] = np.full((2, 2), 51, np.uint8)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        path.write_bytes(encode(image))
    (number,) = {*open_images(path, (2, 2), given, asked)[0].tolist()}
    return np.float32(number)

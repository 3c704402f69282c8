"""The same pictures in every form that people have them in: what is read is the same, number by number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import FORMS, IMAGES, LABELS, NAMES, Make, found, npz, pictures, write
from numpy.typing import NDArray
from PIL import Image

from ffpipe.config.schema import Data
from ffpipe.data.inputs import open_images
from ffpipe.data.splits import load_splits
from ffpipe.data.tables import comma_separated
from ffpipe.system.errors import UserError


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_the_same_is_read(make: Make, tmp_path: Path) -> None:
    splits = found(tmp_path, make)
    count = len(splits.train)
    images = splits.train.images(np.arange(count)).reshape(-1, 4, 4)
    rows = [int((IMAGES / np.float32(255) == image).all(axis=(1, 2)).argmax()) for image in images]
    np.testing.assert_array_equal(images, IMAGES[rows] / np.float32(255))
    assert sorted(rows) == rows or "folder" in splits.train.stored.path.name
    np.testing.assert_array_equal(splits.train.labels(np.arange(count)), LABELS[rows])
    assert count in (27, 30)
    assert splits.classes == 3
    assert len(splits.test) in (3, 30)
    np.testing.assert_array_equal(splits.test.images(np.arange(1)).max() <= 1, True)
    assert splits.found[0].startswith("data: 30 images of ")


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("names", ("cat", "dog", "emu")),
        ("bytes as names", ("cat", "dog", "emu")),
        ("Parquet, names", ("cat", "dog", "emu")),
        ("Parquet, a dictionary", ("cat", "dog", "emu")),
        ("datasets", ("cat", "dog", "emu")),
        ("folders", ("cat", "dog", "emu")),
        ("from one", ("1", "2", "3")),
        ("negative", ("-1", "0", "1")),
        ("CSV of words, without names", ("cat", "dog", "emu")),
        ("npz", ()),
        ("text of digits as labels", ()),
    ],
)
def test_names_of_classes(form: str, names: tuple[str, ...], tmp_path: Path) -> None:
    splits = found(tmp_path, FORMS[form])
    assert splits.names == names
    assert (f"classes 0 to 2 are {', '.join(names)}" in splits.found[0]) == bool(names)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
def test_any_two_modes_of_pictures_go_together(first: str, second: str, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    for row, image in enumerate(colours):
        place = tmp_path / "set" / NAMES[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        converted = Image.fromarray(image).convert(second if row % 3 else first)
        converted.save(place / f"{row:02d}{'.jpg' if converted.mode == 'CMYK' else '.png'}")
    splits = found(tmp_path, lambda folder: folder / "set")
    grey = {first, second} <= {"1", "L", "LA"}
    assert splits.shape == ((4, 4) if grey else (4, 4, 4) if first == second == "RGBA" else (4, 4, 3))
    assert ("are read as RGB" in splits.found[0]) == (not grey and _stored(first) != _stored(second))


def _stored(mode: str) -> str:
    return {"1": "L", "LA": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)


def test_greys_of_a_palette_go_with_greys(tmp_path: Path) -> None:
    for row, image in enumerate(IMAGES):
        place = tmp_path / "set" / NAMES[LABELS[row]]
        place.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(image)
        (grey.quantize(256) if row % 2 else grey).save(place / f"{row:02d}.png")
    assert found(tmp_path, lambda folder: folder / "set").shape == (4, 4)


def test_size_and_mode_of_pictures(tmp_path: Path) -> None:
    splits = found(tmp_path, pictures(), size=(6, 5), mode="RGB")
    assert splits.shape == (6, 5, 3)


def test_shape_of_lists(tmp_path: Path) -> None:
    assert found(tmp_path, FORMS["Parquet, list"], shape=(2, 8)).shape == (2, 8)
    with pytest.raises(UserError, match=r"training\.data\.shape is \(3, 5\), but an image has 16 numbers"):
        found(tmp_path / "other", _in_new(FORMS["npz"]), shape=(3, 5))


def _in_new(make: Make) -> Make:
    def made(folder: Path) -> Path | list[Path]:
        folder.mkdir()
        return make(folder)

    return made


@pytest.mark.parametrize(
    ("images", "said", "largest"),
    [
        (IMAGES.astype(float) * 2, "warning: numbers of images are .* to 510, not 0 to 1, and taken as they are", 510),
        (IMAGES / 255.0 - 0.5, "warning: numbers of images are -0.5 to 0.5, not 0 to 1", 0.5),
        (IMAGES // 16, "warning: numbers of images reach 15 and are divided by 255", 15 / 255),
        (IMAGES > 99, "", 1),
        ((IMAGES > 99).astype(np.uint8), "images are of 0 and 1", 1),
        (IMAGES / 255.0, "", 1),
        (IMAGES.astype(np.int64), "numbers of images reach 255 and are divided by 255", 1),
    ],
)
def test_what_is_said_of_the_scale(images: NDArray[Any], said: str, largest: float, tmp_path: Path) -> None:
    splits = found(tmp_path, npz(x=images, y=LABELS))
    assert splits.train.images(np.arange(len(splits.train))).max() == pytest.approx(largest)
    lines = "\n".join(splits.found)
    assert re.search(said, lines)
    assert said or lines.count("\n") == 0


def test_a_scale_of_ones_own(tmp_path: Path) -> None:
    splits = found(tmp_path, npz(x=IMAGES // 16, y=LABELS), scale=15.0)
    assert splits.train.images(np.arange(len(splits.train))).max() == 1
    assert len(splits.found) == 1


def test_the_test_part_has_the_scale_of_the_training_part(tmp_path: Path) -> None:
    """Though its own numbers might be taken for others."""
    dark = npz(x_train=IMAGES.astype(float), y_train=LABELS, x_test=IMAGES.astype(float) // 8, y_test=LABELS)
    test = found(tmp_path, dark).test
    np.testing.assert_array_equal(test.images(np.arange(30)), IMAGES.reshape(30, 16) // 8 / np.float32(255))


ONES = (IMAGES > 99).astype(np.uint8)


@pytest.mark.parametrize(
    ("train", "test", "read"),
    [
        (IMAGES.astype(float), IMAGES / 255.0, IMAGES / 255.0),
        (IMAGES / 255.0, IMAGES.astype(float), IMAGES / 255.0),
        (ONES, IMAGES, IMAGES / 255.0),
        (ONES > 0, ONES, ONES),
        (IMAGES / 127.5 - 1, IMAGES / 100.0, IMAGES / 100.0),
    ],
)
def test_a_test_part_may_have_another_scale_in_numbers_of_the_same_kind(
    train: NDArray[Any], test: NDArray[Any], read: NDArray[Any], tmp_path: Path
) -> None:
    splits = found(tmp_path, npz(x_train=train, y_train=LABELS, x_test=test, y_test=LABELS))
    images = splits.test.images(np.arange(30))
    np.testing.assert_allclose(images, read.reshape(30, 16), rtol=1e-6)
    # A prediction takes them alike.
    np.save(tmp_path / "test.npy", test)
    opened = open_images(tmp_path / "test.npy", (4, 4), splits.given)
    np.testing.assert_allclose(np.stack([opened[row] for row in range(30)]), images, rtol=1e-6)


def test_another_column_of_labels(tmp_path: Path) -> None:
    path = write("a.csv", "kind,p,q\ncat,1,200\ndog,4,3\ncat,3,2\n")(tmp_path)
    data = Data(source="csv", train=(str(path),), label_column="kind", test_count=1, split_seed=-1)
    splits = load_splits(data)
    assert (splits.names, splits.shape) == (("cat", "dog"), (2,))


@pytest.mark.parametrize(
    ("first", "below", "headed"),
    [
        ("cat,5,3,7", "dog,1,2,9\ncat,3,2,1\n", False),
        ("cat,1,2,3", "dog,1,2,9\ncat,3,2,1\n", False),  # though its numbers grow
        ("5,3,7,cat", "1,2,9,dog\n3,2,1,cat\n", False),
        ("cat,5,3,7", "dog,1,2,9\nemu,3,2,1\n", False),
        (",5,3,7", "dog,1,2,9\ndog,3,2,1\n", False),  # its label is missing, which is said later
        ("cat,5", "cat,5\n", False),
        ("label,5,3,7", "0,1,2,9\n,3,2,1\n", True),
        ("class,443,490,560", "dog,1,2,9\nemu,3,2,1\n", True),
        ("cat,5", "dog,5\n", True),
        ("label,x", "dog,1\nlabel,2\n", True),
        (",0,1", "0,5,7\n1,6,4\n", True),
        ("0,1,2", "5,7,1\n", True),
        ("0,2,1", "5,7,1\n", False),
        ("label,p\u2028q,r\x85s", "0,1,2\n1,3,4\n", True),  # ends of lines for Python, not in a CSV
    ],
)
def test_the_first_line_of_a_csv_is_of_names_or_of_numbers(
    first: str, below: str, headed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{first}\n{below}")
    table = comma_separated(path)
    assert table.headed == headed
    assert table.schema.names == (first.split(",") if headed else [*map(str, range(first.count(",") + 1))])
    assert sum(map(len, table.read(table.schema.names, 9))) == below.count("\n") + (not headed)


def test_a_csv_may_begin_with_the_letters_of_an_archive(tmp_path: Path) -> None:
    path = write("a.csv", "PKU,label,q\n1,0,3\n4,1,2\n6,1,2\n")(tmp_path)
    assert len(found(tmp_path, lambda _: path).train) == 2


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_whole_floats_are_labels_in_silence(dtype: str, tmp_path: Path) -> None:
    assert found(tmp_path, npz(x=IMAGES, y=LABELS.astype(dtype))).classes == 3


def test_a_part_without_an_example_of_the_positive_classes_is_refused(tmp_path: Path) -> None:
    beyond = npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:3], y_test=np.full(3, 2))
    with pytest.raises(UserError, match="no example of the test part is of the first 2 classes"):
        found(tmp_path, beyond, positive_classes=2)
    beyond = npz(x_train=IMAGES[:3], y_train=np.full(3, 2), x_test=IMAGES, y_test=LABELS)
    with pytest.raises(UserError, match="no example of the training part is of the first 2 classes"):
        found(tmp_path, beyond, positive_classes=2, classes=3)


def test_gaps_are_said(tmp_path: Path) -> None:
    splits = found(tmp_path, npz(x=IMAGES, y=np.where(LABELS == 2, 3, LABELS)))
    assert splits.classes == 4
    assert "no example is of class 2" in splits.found[0]


@pytest.mark.parametrize(("channels", "shape"), [(3, (5, 6, 3)), (4, (5, 6, 4)), (1, (5, 6))])
def test_channels_first_are_read_with_channels_last(channels: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, channels, 5, 6), np.uint8)
    splits = found(tmp_path, npz(x=images, y=LABELS))
    assert splits.shape == shape
    read = splits.train.images(np.arange(27)).reshape(27, 5, 6, channels)
    np.testing.assert_array_equal(read, np.moveaxis(images[:27], 1, -1) / np.float32(255))
    assert f"images of {channels} x 5 x 6, channels first, are read as 5 x 6" in splits.found[0]
    np.save(tmp_path / "some.npy", images[:2])
    np.save(tmp_path / "one.npy", images[0])
    opened = open_images(tmp_path / "some.npy", shape, splits.given)
    np.testing.assert_array_equal(np.stack([opened[0], opened[1]]), splits.train.images(np.arange(2)))
    np.testing.assert_array_equal(open_images(tmp_path / "one.npy", shape, splits.given)[0], opened[0])


@pytest.mark.parametrize("channels", [3, 2])
def test_a_shape_with_channels_last_moves_those_that_stand_first(channels: int, tmp_path: Path) -> None:
    """A picture need not be able to have so many."""
    images = np.random.default_rng(0).integers(0, 256, (30, channels, 5, 6), np.uint8)
    splits = found(tmp_path, npz(x=images, y=LABELS), shape=(5, 6, channels))
    assert splits.shape == (5, 6, channels)
    read = splits.train.images(np.arange(27)).reshape(27, 5, 6, channels)
    np.testing.assert_array_equal(read, np.moveaxis(images[:27], 1, -1) / np.float32(255))
    assert f"images of {channels} x 5 x 6, channels first, are read as 5 x 6 x {channels}" in splits.found[0]
    # Any other shape leaves the numbers in their order.
    rows = found(tmp_path, npz(x=images, y=LABELS), shape=(channels, 6, 5)).train.images(np.arange(2))
    np.testing.assert_array_equal(rows, images[:2].reshape(2, -1) / np.float32(255))


def test_channels_last_stay_where_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 6, 3), np.uint8)
    assert found(tmp_path, npz(x=images, y=LABELS)).shape == (3, 6, 3)

"""The same pictures in every form that people have them in: what is read is the same, number by number."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Data
from ffpipe.data.discover import discover, on
from ffpipe.data.opened import open_images
from ffpipe.data.splits import Splits, load_splits
from ffpipe.system.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4), np.uint8)
IMAGES[0, 0, 0] = 255
LABELS = np.arange(30) % 3
NAMES = np.array(["cat", "dog", "emu"])
NUMBERS = list(IMAGES.reshape(30, -1))
Make = Callable[[Path], "Path | list[Path]"]
Guard = Callable[[type[Exception]], AbstractContextManager[None]]


def npz(**arrays: NDArray[Any]) -> Make:
    def make(folder: Path) -> Path:
        np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]  # a name is taken for an option
        return folder / "set.npz"

    return make


def npy(folder: Path) -> list[Path]:
    np.save(folder / "labels.npy", LABELS)
    np.save(folder / "images.npy", IMAGES)
    return [folder / "labels.npy", folder / "images.npy"]


def csv(delimiter: str = ",", header: bool = True, last: bool = False, packed: bool = False) -> Make:
    def make(folder: Path) -> Path:
        columns = [("label", LABELS), *((f"pixel{at}", IMAGES.reshape(30, -1)[:, at]) for at in range(16))]
        columns = [*columns[1:], columns[0]] if last else columns
        lines = [delimiter.join(name for name, _ in columns)] if header else []
        lines += [delimiter.join(str(values[row]) for _, values in columns) for row in range(30)]
        text = ("\n".join(lines) + "\n").encode()
        path = folder / ("set.csv.gz" if packed else "set.csv")
        path.write_bytes(gzip.compress(text) if packed else text)
        return path

    return make


def table(kind: str = "list", label: Any = None) -> pa.Table:
    """Make a table of the pictures as encoded ones, lists of any depth, a tensor, or a column a pixel."""
    labels = pa.array(LABELS) if label is None else label
    if kind == "pixels":
        return pa.table({**{f"p{at}": IMAGES.reshape(30, -1)[:, at] for at in range(16)}, "label": labels})
    if kind == "png":
        rows = [{"bytes": png(each), "path": None} for each in IMAGES]
        column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    elif kind == "tensor":
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES)
    elif kind == "nested":
        column = pa.array(IMAGES.tolist(), pa.list_(pa.list_(pa.uint8())))
    else:
        column = pa.array(NUMBERS, pa.list_(pa.uint8()))
    return pa.table({"image": column, "label": labels})


def parquet(made: pa.Table, parts: int = 1) -> Make:
    def make(folder: Path) -> Path:
        (folder / "set").mkdir()
        for part, rows in enumerate(np.array_split(np.arange(30), parts)):
            pq.write_table(made.take(rows), folder / "set" / f"train-{part:05d}.parquet")
        return folder / "set" / "train-00000.parquet" if parts == 1 else folder / "set"

    return make


def arrow(stream: bool) -> Make:
    def make(folder: Path) -> Path:
        made = table("png")
        opened = pa.ipc.new_stream if stream else pa.ipc.new_file
        with opened(str(folder / "set.arrow"), made.schema) as sink:
            sink.write_table(made, max_chunksize=7)
        return folder / "set.arrow"

    return make


def feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(table(), str(folder / "set.feather"))
    return folder / "set.feather"


def datasets(folder: Path) -> Path:
    """Write a set as Hugging Face's `datasets` saves it with two splits, with names of the classes in the schema."""
    info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": NAMES.tolist()}}}}
    made = table("png").replace_schema_metadata({b"huggingface": json.dumps(info)})
    (folder / "set").mkdir()
    (folder / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for split in ("train", "test"):
        place = folder / "set" / split
        place.mkdir()
        with pa.ipc.new_stream(str(place / "data-00000-of-00001.arrow"), made.schema) as sink:
            sink.write_table(made)
        files = [{"filename": "data-00000-of-00001.arrow"}]
        (place / "state.json").write_text(json.dumps({"_data_files": files}))
    return folder / "set"


def png(pixels: NDArray[np.uint8], mode: str = "") -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, "PNG")
    return stream.getvalue()


def pictures(*parts: str) -> Make:
    """Return a folder a class, with what is found in such folders beside; names count from one class to the next."""

    def make(folder: Path) -> Path:
        for part in parts or ("",):
            for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
                place = folder / "set" / part / NAMES[label]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{row:03d}.png").write_bytes(png(image))
        (folder / "set" / ".DS_Store").write_bytes(b"\0")
        (folder / "set" / "README.txt").write_text("pictures")
        (folder / "set" / parts[0] if parts else folder / "set").joinpath("cat", ".hidden").write_bytes(b"\0")
        return folder / "set"

    return make


FORMS: dict[str, Make] = {
    "npz": npz(x=IMAGES, y=LABELS),
    "one-hot": npz(x=IMAGES, y=np.eye(3, dtype=np.float32)[LABELS]),
    "whole floats as labels": npz(x=IMAGES, y=LABELS.astype(np.float64)),
    "text of digits as labels": npz(x=IMAGES, y=LABELS.astype(str)),
    "labels in a column": npz(x=IMAGES, y=LABELS[:, None].astype(np.int8)),
    "from one": npz(x=IMAGES, y=LABELS + 1),
    "negative": npz(x=IMAGES, y=LABELS - 1),
    "names": npz(x=IMAGES, y=NAMES[LABELS]),
    "bytes as names": npz(x=IMAGES, y=NAMES[LABELS].astype("S")),
    "Fortran order": npz(x=np.asfortranarray(IMAGES), y=LABELS),
    **{f"numbers of {t}": npz(x=IMAGES.astype(t), y=LABELS) for t in ("i2", ">u2", "i8", "f2", "f4", ">f8")},
    "Keras": npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES / 255, y_test=LABELS),
    "MedMNIST": npz(
        train_images=IMAGES, train_labels=LABELS[:, None], val_images=IMAGES[:2], test_images=IMAGES, test_labels=LABELS
    ),
    "npy": npy,
    "CSV": csv(),
    "CSV, semicolons": csv(";"),
    "CSV, tabs, gzipped": csv("\t", packed=True),
    "CSV without names": csv(header=False),
    "CSV, the label last": csv(last=True),
    **{f"Parquet, {kind}": parquet(table(kind)) for kind in ("list", "png", "tensor", "nested", "pixels")},
    "Parquet, names": parquet(table(label=pa.array(NAMES[LABELS]))),
    "Parquet, a dictionary": parquet(table(label=pa.array(NAMES[LABELS]).dictionary_encode())),
    "Parquet, one-hot": parquet(table(label=pa.array(np.eye(3)[LABELS].tolist()))),
    "Parquet, shards": parquet(table(), parts=3),
    "Arrow file": arrow(stream=False),
    "Arrow stream": arrow(stream=True),
    "Feather": feather,
    "datasets": datasets,
    "folders": pictures(),
    "folders of two parts": pictures("train", "test"),
}


def found(folder: Path, make: Make, **fields: Any) -> Splits:
    made = make(folder)
    config = on(get_recipe("digits"), discover([str(each) for each in (made if isinstance(made, list) else [made])]))
    fields = {"validation": 0, "test_count": 0 if config.training.data.test else -1, "split_seed": -1} | fields
    return load_splits(replace(config.training.data, **fields))


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
    assert pytest.importorskip("re").search(said, lines)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (npz(x=IMAGES, y=np.zeros((30, 3))), "labels have 3 numbers a row, but row 0 is not one-hot"),
        (npz(x=IMAGES, y=LABELS + 0.5), "the label 0.5 at row 0 is not a whole number"),
        (npz(x=IMAGES, y=np.full(30, np.nan)), "the label nan at row 0 is not a whole number"),
        (npz(x=IMAGES, y=np.array(["", *["a"] * 29])), "the label at row 0 is .*; expected a name or a number"),
        (npz(x=IMAGES, y=LABELS + (1 << 40)), "is no likely class number"),
        (npz(x_train=IMAGES, y_train=NAMES[LABELS], x_test=IMAGES, y_test=np.array(["fox"] * 30)),
         "the label 'fox' at row 0 is none of the training part's classes: cat, dog, emu"),
    ],
)  # fmt: skip
def test_labels_that_are_none(make: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        found(tmp_path, make)
    assert "\n" not in str(caught.value)


def write(name: str, data: bytes | str) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (write("a.csv", "label,name,p\n1,x,3\n2,y,4\n"), r"not only columns of numbers: 'name' \(string\)"),
        (write("a.csv", "one,two\n1,2\n3,4\n"), "label_column is 'label', but there is no such column"),
        (write("a.csv", "label,p,p\n1,2,3\n"), "the column 'p' is there twice"),
        (write("a.csv", ""), "it is empty"),
        (write("a.csv", "label,p,q\n1,2,3\n0,1\n"), "cannot be read: .*columns"),
        (write("a.csv", "label,p,q\n1,2,3\n0,1,\n"), "'q' is null at row 1"),
        (write("a.csv", b"label,p\n\xff\xfe\n"), "cannot be read|not only columns"),
        (write("a.arrow", b"ARROW1\0\0nothing"), "cannot be read"),
        (write("a.bin", b"what is it"), "its format is not known: expected a folder of pictures, CSV"),
        (lambda folder: folder, "the folder has neither data in a known format nor folders of pictures"),
        (write("a/kind/1.png", b"no picture"), "is one picture: give the folder that has a folder of pictures"),
        (lambda folder: folder / "nowhere", "--data: there is no file or folder"),
    ],
)
def test_what_is_refused(make: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        found(tmp_path, make)
    assert "\n" not in str(caught.value)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    folder = pictures()(tmp_path)
    assert isinstance(folder, Path)
    (folder / "dog" / "notes.txt").write_text("what I saw")
    with pytest.raises(UserError, match=r"dog/notes\.txt: it cannot be decoded: it is no PNG, JPEG, BMP, GIF or WebP"):
        found(tmp_path, lambda _: folder)


def test_another_column_of_labels(tmp_path: Path) -> None:
    path = write("a.csv", "kind,p,q\ncat,1,200\ndog,4,3\ncat,3,2\n")(tmp_path)
    data = Data(source="csv", train=(str(path),), label_column="kind", test_count=1, split_seed=-1)
    splits = load_splits(data)
    assert (splits.names, splits.shape) == (("cat", "dog"), (2,))


def test_gaps_are_said(tmp_path: Path) -> None:
    splits = found(tmp_path, npz(x=IMAGES, y=np.where(LABELS == 2, 3, LABELS)))
    assert splits.classes == 4
    assert "no example is of class 2" in splits.found[0]


DAMAGED = ("npz", "CSV", "CSV, tabs, gzipped", "Arrow file", "Arrow stream", "Feather", "Parquet, nested")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(DAMAGED))
def test_damaged_files_are_refused_in_a_line_or_read(
    read_or_refused: Guard, tmp_path: Path, data: st.DataObject, form: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = FORMS[form](folder)
    assert isinstance(path, Path)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))] if data.draw(st.booleans()) else damaged)
    with read_or_refused(UserError):
        splits = found(folder, lambda _: path)
        assert len(splits.train.images(np.arange(len(splits.train)))) == len(splits.train)


@pytest.mark.parametrize(
    ("source", "form", "kind"),
    [("parquet", "CSV", "csv"), ("parquet", "Arrow stream", "arrow"), ("npz", "Parquet, list", "parquet")],
)
def test_a_file_of_another_source_is_named(source: Any, form: str, kind: str, tmp_path: Path) -> None:
    data = Data(source=source, train=(str(FORMS[form](tmp_path)),), test_count=3)
    with pytest.raises(UserError, match=rf"is a file for training\.data\.source '{kind}', not '{source}'"):
        load_splits(data)


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


def test_channels_last_stay_where_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 6, 3), np.uint8)
    assert found(tmp_path, npz(x=images, y=LABELS)).shape == (3, 6, 3)

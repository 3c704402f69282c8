from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken import damaged, read_or_refused
from forms import encode, everything
from hypothesis import given, settings
from hypothesis import strategies as st

from ffpipe.config.schema import Data
from ffpipe.data import columns, tables
from ffpipe.data.columns import Wanted
from ffpipe.data.splits import load_splits
from ffpipe.system.errors import UserError

Write = Callable[..., Path]

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = [0, 1, 2, 2, 1, 0]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


PNGS = [encode(pixels) for pixels in PICTURES]


def hugging_face(encoded: Sequence[bytes | None], labels: Sequence[int | None] = LABELS) -> pa.Table:
    rows = [{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(encoded)]
    return pa.table({"img": pa.array(rows, STRUCT), "label": labels})


def opened(*paths: Path, image: str = "", label: str = "label") -> tuple[np.ndarray, np.ndarray]:
    wanted = Wanted(image, label)
    return everything(columns.part("parquet", tables.parquet, paths, wanted, "training.data.train").open())


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    folder = tmp_path_factory.mktemp("parquet")

    def save(table: pa.Table, name: str = "set.parquet", **options: Any) -> Path:
        pq.write_table(table, folder / name, **options)
        return folder / name

    return save


@pytest.mark.parametrize("row_group_size", [1, 4, 100])
def test_hugging_face_pictures(write: Write, row_group_size: int) -> None:
    images, labels = opened(write(hugging_face(PNGS), row_group_size=row_group_size))
    np.testing.assert_array_equal(images, PICTURES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
def test_plain_column_of_pictures(write: Write, kind: Any) -> None:
    images, _ = opened(write(pa.table({"png": pa.array(PNGS, kind), "label": LABELS})))
    np.testing.assert_array_equal(images, PICTURES)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda values: pa.list_(values, 60)])
def test_lists_of_numbers(write: Write, dtype: Any, kind: Any) -> None:
    numbers = PICTURES.reshape(6, -1).astype(dtype)
    column = pa.array(list(numbers), kind(pa.from_numpy_dtype(dtype)))
    path = write(pa.table({"pixels": column, "label": pa.array(LABELS, pa.int8())}))
    images, labels = opened(path)
    np.testing.assert_array_equal(images, numbers)
    assert images.dtype == dtype
    np.testing.assert_array_equal(labels, LABELS)


def test_tensors_have_the_axes_of_their_permutation(write: Write) -> None:
    """pyarrow writes one where an array does not lie in row-major order."""
    numbers = np.ascontiguousarray(PICTURES[..., 0])
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(numbers.swapaxes(1, 2))
    assert tensors.type.permutation == [1, 0]
    images, _ = opened(write(pa.table({"image": tensors, "label": LABELS})))
    np.testing.assert_array_equal(images, numbers.swapaxes(1, 2))


def test_tensors_whose_axes_programs_read_in_two_ways_are_refused(write: Write) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.moveaxis(PICTURES, -1, 1))
    with pytest.raises(UserError, match=r"the tensors in 'image' have the permutation \[\d, \d, \d\], which programs"):
        opened(write(pa.table({"image": tensors, "label": LABELS})))


def test_several_files_in_their_order(write: Write) -> None:
    first = write(hugging_face(PNGS[:2], LABELS[:2]), "1.parquet")
    second = write(hugging_face(PNGS[2:], LABELS[2:]), "2.parquet")
    images, labels = opened(first, second)
    np.testing.assert_array_equal(images, PICTURES)
    np.testing.assert_array_equal(labels, LABELS)
    images, _ = opened(second, first)
    np.testing.assert_array_equal(images[:4], PICTURES[2:])


@pytest.mark.parametrize("block_bytes", [1, 150, 1 << 20])
def test_rows_are_read_some_at_a_time(write: Write, block_bytes: int) -> None:
    """As many as fit decoded: zeros take next to no bytes in a file."""
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(300, np.uint8)), 50)
    for column in (zeros, pa.array(PNGS)):
        path = write(pa.table({"image": column, "label": LABELS}))
        contents = columns.contents(tables.parquet, [path], block_bytes=block_bytes)
        blocks = list(contents.blocks())
        assert sum(map(len, blocks)) == 6
        assert all(len(block) == 1 or block.nbytes <= block_bytes for block in blocks)


def two_columns() -> pa.Table:
    return hugging_face(PNGS).append_column("mask", pa.array(PNGS)).append_column("name", pa.array(["a"] * 6))


def test_the_column_that_is_asked_for(write: Write) -> None:
    path = write(two_columns().rename_columns(["img", "digit", "mask", "name"]))
    np.testing.assert_array_equal(opened(path, image="mask", label="digit")[0], PICTURES)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"training\.data\.image_column has to name the column of images; there are: img, mask"),
        (
            {"image": "imgs"},
            r"training\.data\.image_column is 'imgs', .* is absent; .* did you mean 'img'\?",
        ),
        ({"image": "name"}, "'name', but that column is string; expected"),
        ({"image": "label"}, "'label', but that column is int64; expected"),
        ({"image": "img", "label": "labels"}, r"training\.data\.label_column is 'labels', .* did you mean 'label'\?"),
        ({"image": "img", "label": "mask"}, "the label column 'mask' is binary; expected numbers, names or one-hot"),
    ],
)
def test_columns_that_do_not_fit(write: Write, columns: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(write(two_columns()), **columns)


def lists(*rows: list[int | None] | None) -> pa.Table:
    return pa.table({"pixels": pa.array(rows, pa.list_(pa.uint8())), "label": [0] * len(rows)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"name": ["a"], "label": [0]}), "not only columns of numbers: 'name' \\(string\\)"),
        (hugging_face(PNGS)[:0], "there are no examples"),
        (hugging_face([*PNGS[:5], None]), "'img' is null at row 5"),
        (hugging_face(PNGS, [0, 1, None, 0, 0, 0]), "'label' is null at row 2"),
        (hugging_face([*PNGS[:5], b"text"]), "row 5 cannot be decoded: it is not PNG, JPEG, BMP, GIF or WebP"),
        (
            hugging_face([*PNGS[:5], encode(PICTURES[0, :3])]),
            r"row 5 has shape \(3, 5, 3\), but the first .* \(4,",
        ),
        (lists([1, 2], [3]), r"row 1 has shape \(1,\), but the first of all has \(2,\)"),
        (lists([1, 2], [3, None]), "row 1 of 'pixels' holds a null"),
        (lists([1, 2], None), "'pixels' is null at row 1"),
        (lists([], []), "values an image"),
    ],
)
def test_what_is_refused(write: Write, table: pa.Table, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened(write(table))
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_together(write: Write) -> None:
    first = write(lists([1, 2]), "1.parquet")
    with pytest.raises(UserError, match=r"2\.parquet: its images are in .*'img' \(struct.*in .*'pixels' \(list"):
        opened(first, write(hugging_face(PNGS), "2.parquet"))
    with pytest.raises(UserError, match=r"2\.parquet: the image at row 0 has shape \(3,\), but the first of all has"):
        opened(first, write(lists([1, 2, 3]), "2.parquet"))


@pytest.mark.parametrize("name", ["label", "target", "Class"])
def test_the_column_of_labels_is_said_where_it_has_another_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"one,{name},two\n" + "1,0,2\n3,1,4\n" * 10)
    data = Data(source="csv", train=(str(tmp_path / "a.csv"),), test_count=2)
    said = f"labels are in the column {name!r}" in load_splits(data).found[0]
    assert said == (name != "label")
    (tmp_path / "a.csv").write_text("2,1,4\n" * 10)
    assert "labels are in the first column" in load_splits(data).found[0]


def test_a_column_of_labels_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("able,two\n" + "1,0\n" * 10)
    data = Data(source="csv", train=(str(tmp_path / "a.csv"),), test_count=2)
    with pytest.raises(UserError, match=r"label_column is 'label', but .* there are: able, two"):
        load_splits(data)
    with pytest.raises(UserError, match=r"label_column is 'abel', but .* did you mean 'able'"):
        load_splits(replace(data, label_column="abel"))


def test_two_columns_of_one_name(write: Write) -> None:
    with pytest.raises(UserError, match=r"set\.parquet: the column 'img' is there twice"):
        opened(write(hugging_face(PNGS).append_column("img", pa.array(PNGS))))


def test_not_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_bytes(b"text")
    with pytest.raises(UserError, match=r"set\.parquet: cannot be read"):
        opened(tmp_path / "set.parquet")


@pytest.mark.parametrize("name", ["image", "inside"])
def test_names_that_are_no_text(name: str, tmp_path: Path) -> None:
    """Columns have such names, and what is within one."""
    table = pa.table({"image": [{"inside": b"..."}], "label": [1]})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    path = tmp_path / "given.arrow"
    path.write_bytes(sink.getvalue().replace(name.encode(), name[:-1].encode() + b"\xfa"))
    with pytest.raises(UserError, match="cannot be read: 'utf-8' codec can't decode"):
        columns.contents(tables.arrow, [path])


def test_truncated(write: Write) -> None:
    path = write(hugging_face(PNGS), "truncated.parquet")
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            opened(path)


@pytest.mark.parametrize("column", range(3))
def test_a_cell_without_a_value_is_named_whatever_its_column(column: int, tmp_path: Path) -> None:
    cells, names = ["1", "2", "3"], ["label", "p", "q"]
    cells[column] = ""
    (tmp_path / "set.csv").write_text(",".join(names) + "\n0,1,2\n" + ",".join(cells) + "\n0,5,6\n")
    with pytest.raises(UserError, match=f"the column '{names[column]}' is null at row 1"):
        list(columns.contents(tables.comma_separated, [tmp_path / "set.csv"]).blocks())


def test_a_word_far_below_numbers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.csv", ["0,1,2", "1,2,1"] * 100_000
    path.write_text("\n".join(["label,p,q", *lines, "cat,1,2", ""]))
    with pytest.raises(
        UserError, match="invalid value 'cat'; the lines above have numbers there; one with a word among"
    ):
        columns.contents(tables.comma_separated, [path])
    path.write_text("\n".join(["label,p,q", "cat,1,2", *lines, ""]))
    assert len(columns.contents(tables.comma_separated, [path]).labels) == 200_001


def test_only_some_of_many_columns_are_named(tmp_path: Path) -> None:
    names = [f"pixel{at}" for at in range(784)]
    (tmp_path / "test.csv").write_text(",".join(names) + "\n" + ",".join(["0"] * 784) + "\n")
    with pytest.raises(UserError, match=r"there are: pixel0, .*, pixel9, \.\.\., pixel783$"):
        columns.contents(tables.comma_separated, [tmp_path / "test.csv"])


@settings(max_examples=300, deadline=None)
@given(data=st.data(), encoded=st.booleans())
def test_damaged_files_give_user_errors_or_are_read(
    write: Write,
    data: st.DataObject,
    encoded: Any,
) -> None:
    path = write(hugging_face(PNGS) if encoded else lists([1, 2], [3, 4]), "damaged.parquet")
    path.write_bytes(damaged(data, path.read_bytes()))
    with read_or_refused():
        images, labels = opened(path)
        assert len(images)
        assert len(labels)


def test_one_column_of_numbers_is_an_image_of_one_pixel(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table({"label": [0, 1, 1], "p0": pa.array([3, 200, 9], pa.uint8())}), path)
    contents = columns.contents(tables.parquet, [path])
    assert contents.shape == (1,)
    assert np.concatenate(list(contents.blocks())).tolist() == [[3], [200], [9]]


def test_the_row_of_a_null_within_a_label_is_named(tmp_path: Path) -> None:
    labels = pa.array([[1, 0], [0, None]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"image": [[1, 2], [3, 4]], "label": labels}), path := tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 1 of 'label' holds a null"):
        columns.contents(tables.parquet, [path])


def labelled(kind: pa.DataType, labels: Sequence[str]) -> pa.Table:
    return pa.table({"image": [[1, 2]] * len(labels), "label": pa.array(labels, kind)})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_labels_are_words_of_every_kind(kind: pa.DataType, write: Write) -> None:
    _, labels = opened(write(labelled(kind, ["cat", "dog"])))
    assert labels.tolist() == ["cat", "dog"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_a_text_in_the_column_of_labels_is_refused(kind: pa.DataType, write: Write) -> None:
    """For each of the others NumPy would take as many bytes as for the longest."""
    path = write(labelled(kind, ["cat"] * 50_000 + ["dog" * 500_000]))
    with pytest.raises(
        UserError, match=r"the label in 'label' at row 50000 has 1,500,000 bytes; expected a number, or"
    ):
        opened(path)
    assert opened(write(labelled(kind, ["d" * 255, "cat"])))[1].tolist() == ["d" * 255, "cat"]

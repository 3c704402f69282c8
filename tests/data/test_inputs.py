"""Files that a user gives for predictions: pictures, and arrays of one image or of many."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from broken import damaged, read_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from ffpipe.data.inputs import OpenedImages, open_images
from ffpipe.data.scale import Given
from ffpipe.data.source import BLOCK_BYTES
from ffpipe.system.errors import UserError

GREY = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
SHARES = (GREY / np.float32(255)).reshape(-1)
BYTES = Given("u", 255.0)


def saved(folder: Path, array: NDArray[Any]) -> Path:
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def only(file: OpenedImages) -> NDArray[np.float32]:
    """Return the row of a file of one image."""
    assert (len(file), file.many) == (1, False)
    return file[0]


def picture(folder: Path, pixels: NDArray[Any], name: str = "image.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["a.png", "a.BMP", "a.gif"])
def test_a_picture_is_scaled(tmp_path: Path, name: str) -> None:
    row = only(open_images(picture(tmp_path, GREY, name), (28, 28), Given()))
    assert row.dtype == np.float32
    np.testing.assert_array_equal(row, SHARES)


@pytest.mark.parametrize(("shape", "mode"), [((6, 5), "L"), ((6, 5, 1), "L"), ((6, 5, 3), "RGB"), ((6, 5, 4), "RGBA")])
def test_colours_are_those_of_the_network(tmp_path: Path, shape: tuple[int, ...], mode: str) -> None:
    expected = np.array(Image.fromarray(COLOUR).convert(mode), np.float32).reshape(-1) / 255
    np.testing.assert_array_equal(only(open_images(picture(tmp_path, COLOUR), shape, Given("f", 1.0))), expected)


@pytest.mark.parametrize(
    ("shape", "given_shape", "count", "many"),
    [
        ((28, 28), (28, 28), 1, False),
        ((28, 28), (784,), 1, False),
        ((28, 28), (28, 28, 1), 1, False),
        ((28, 28), (1, 28, 28), 1, True),
        ((28, 28), (1, 784), 1, True),
        ((28, 28), (7, 28, 28), 7, True),
        ((28, 28), (784, 784), 784, True),
        ((28, 28), (7, 784), 7, True),
        ((28, 28), (7, 1, 28, 28), 7, True),
        ((28, 28, 1), (7, 28, 28), 7, True),
        ((64,), (8, 8), 1, False),
        ((64,), (64, 1), 1, False),
        ((64,), (64, 64), 64, True),
        ((64,), (5, 8, 8), 5, True),
        ((6, 5, 3), (4, 6, 5, 3), 4, True),
        ((6, 5, 3), (90,), 1, False),
        ((1,), (3, 1), 3, True),
    ],
)
def test_an_array_is_one_image_or_many(
    shape: tuple[int, ...], given_shape: tuple[int, ...], count: int, many: bool, tmp_path: Path
) -> None:
    array = np.random.default_rng(1).random(given_shape, np.float32)
    file = open_images(saved(tmp_path, array), shape, Given())
    assert (len(file), file.many) == (count, many)
    np.testing.assert_array_equal(np.concatenate([file[index] for index in range(count)]), array.reshape(-1))


@pytest.mark.parametrize(
    ("shape", "given_shape", "message"),
    [
        ((3, 4), (4, 3), r"it has shape \(4, 3\); expected \(3, 4\) or \(12,\), or \(n, 3, 4\) for n images$"),
        ((64,), (63,), r"it has shape \(63,\); expected \(64,\), or \(n, 64\) for n images$"),
        ((64,), (0, 64), "it has shape"),
        ((64,), (0,), "it has shape"),
        ((64,), (), "it has shape"),
        ((6, 5, 3), (3, 5, 6), "it has shape"),
        ((6, 5, 3), (2, 3, 5, 6), "it has shape"),
        ((28, 28), (7, 14, 56), "it has shape"),
    ],
)
def test_arrays_of_other_shapes_are_refused(
    shape: tuple[int, ...], given_shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        open_images(saved(tmp_path, np.zeros(given_shape)), shape, Given())


WHOLE = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, ">i4"]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble, ">f4"]
# The numbers that a network was trained on, an array's, and what these are divided by.
SCALES: list[tuple[Given, list[Any], float, float]] = [
    *((given, WHOLE, 0, 255) for given in (Given(), BYTES, Given("i", 255.0), Given("f", 1.0), Given("b", 1.0))),
    *((given, FLOATS, 0, 1) for given in (Given(), BYTES, Given("f", 1.0), Given("b", 1.0))),
    *((given, [bool], 0, 1) for given in (Given(), BYTES, Given("f", 255.0), Given("b", 1.0))),
    (Given("u", 1.0), WHOLE, 0, 1),
    (Given("f", 255.0), FLOATS, 0, 255),
    (Given("f", 255.0), WHOLE, 0, 255),
    (Given("u", 16.0), [*WHOLE, *FLOATS], 16, 16),
    (Given("f", 1.0), WHOLE, 16, 16),
    (BYTES, FLOATS, 16, 16),
    (BYTES, WHOLE, 16, 255),  # pictures, which are divided by 255 whatever the config says
]


@pytest.mark.parametrize(
    ("trained", "dtype", "asked", "divisor"), [(t, d, a, by) for t, dtypes, a, by in SCALES for d in dtypes]
)
def test_numbers_are_divided_as_in_training(
    trained: Given, dtype: DTypeLike, asked: float, divisor: float, tmp_path: Path
) -> None:
    numbers = np.arange(12).astype(dtype)
    row = only(open_images(saved(tmp_path, numbers), (12,), trained, asked))
    np.testing.assert_array_equal(row, numbers.astype(np.float32) / np.float32(divisor))


@pytest.mark.parametrize(("trained", "divisor"), [(Given(), 255), (BYTES, 255), (Given("f", 1.0), 1)])
def test_bytes_in_floats_are_divided_as_a_training_part_would_be(trained: Given, divisor: int, tmp_path: Path) -> None:
    """As fetch_openml gives MNIST."""
    numbers = np.arange(12.0) * 20
    row = only(open_images(saved(tmp_path, numbers), (12,), trained))
    np.testing.assert_array_equal(row, numbers.astype(np.float32) / np.float32(divisor))


SHARE, BYTE, MASK = np.array([0, 0.25, 0.8]), np.array([0, 51, 204]), np.array([0, 1, 1])
UNIT, FLOAT_BYTES, BOOLS = Given("f", 1.0, True), Given("f", 255.0, True), Given("b", 1.0, True)
MASKS, BEYOND, COUNTS = Given("u", 1.0, True), Given("f", 1.0, False), Given("i", 1.0, False)


@pytest.mark.parametrize(
    ("trained", "array", "asked", "divisor"),
    [
        (FLOAT_BYTES, SHARE, 0, 1),
        (Given("f", 255.0), SHARE, 0, 1),  # of a run of before there was more to know
        (FLOAT_BYTES, SHARE * 2 - 1, 0, 1),
        (FLOAT_BYTES, BYTE.astype(float), 0, 255),
        (FLOAT_BYTES, BYTE * 0.7, 0, 255),  # as of pictures that were made smaller
        (FLOAT_BYTES, SHARE, 255, 255),  # as the config says
        (UNIT, BYTE.astype(float), 0, 255),
        (UNIT, SHARE, 0, 1),
        (MASKS, BYTE.astype(np.uint8), 0, 255),
        *((trained, MASK.astype(np.uint8), 0, 1) for trained in (BOOLS, MASKS, UNIT, Given())),
        (BOOLS, BYTE.astype(np.uint8), 0, 255),
        (BYTES, MASK.astype(np.uint8), 0, 255),  # the darkest of bytes
        (BEYOND, SHARE, 0, 1),
        (BEYOND, BYTE.astype(float), 0, 1),
        (COUNTS, BYTE.astype(np.uint8), 0, 1),
        (COUNTS, BYTE.astype(float), 0, 1),
        (BEYOND, BYTE.astype(np.uint8), 100, 100),
    ],
)
def test_the_numbers_of_other_images_say_which_scale_they_have(
    trained: Given, array: NDArray[Any], asked: float, divisor: float, tmp_path: Path
) -> None:
    row = only(open_images(saved(tmp_path, array), (3,), trained, asked))
    np.testing.assert_array_equal(row, array.astype(np.float32) / np.float32(divisor))


@pytest.mark.parametrize(
    ("trained", "array"),
    [(BEYOND, BYTE.astype(np.uint8)), (BEYOND, BYTE.astype(np.int64)), (BEYOND, MASK > 0), (COUNTS, SHARE)],
)
def test_numbers_of_another_kind_than_those_beyond_0_to_1_are_refused(
    trained: Given, array: NDArray[Any], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"a\.npy: numbers of images are \w+, but the network was trained on numbers of"
    ):
        open_images(saved(tmp_path, array), (3,), trained)


@pytest.mark.parametrize("trained", [BEYOND, COUNTS])
def test_pictures_are_refused_where_numbers_beyond_0_to_1_were_trained_on(trained: Given, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"image\.png: pictures have numbers from 0 to 1, but the network was trained on"
    ):
        open_images(picture(tmp_path, GREY), (28, 28), trained)


@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_are_taken_as_they_are(tmp_path: Path, order: Literal["C", "F"]) -> None:
    values = np.linspace(-3, 3, 12).reshape(3, 4)
    row = only(open_images(saved(tmp_path, np.asarray(values, order=order)), (3, 4), Given()))
    np.testing.assert_array_equal(row, values.reshape(-1).astype(np.float32))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(12, 256), "whole numbers beyond 0 to 255"),
        (np.full(12, -1, np.int8), "whole numbers beyond 0 to 255"),
        (np.zeros(12, complex), "it holds complex128"),
        (np.zeros(12, "U3"), "it holds <U3"),
        (np.zeros(12, [("a", "u1")]), "it holds"),
        (np.zeros(12, "datetime64[s]"), "it holds datetime64"),
        (np.array([None] * 12), "cannot read .*objects"),
    ],
)
def test_other_numbers_are_refused(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    for trained in (BYTES, Given()):
        with pytest.raises(UserError, match=message):
            open_images(saved(tmp_path, array), (12,), trained)


def test_whole_numbers_that_were_trained_on_are_taken(tmp_path: Path) -> None:
    row = only(open_images(saved(tmp_path, np.full(12, 4095)), (12,), Given("i", 1.0)))
    np.testing.assert_array_equal(row, np.full(12, 4095, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_an_image_that_is_not_finite_is_refused_alone(tmp_path: Path, bad: float) -> None:
    array = np.zeros((3, 12))
    array[1, 5] = bad
    file = open_images(saved(tmp_path, array), (12,), Given())
    assert file[0].sum() == file[2].sum() == 0
    with pytest.raises(UserError, match=r"a\.npy\[1\]: it holds NaN or infinity"):
        file[1]


def test_a_large_array_is_looked_at_in_parts(tmp_path: Path) -> None:
    path, count = tmp_path / "a.npy", BLOCK_BYTES // (12 * 8) + 2
    array = np.lib.format.open_memmap(path, "w+", np.int64, (count, 12))  # of zeros, which take no room
    tracemalloc.start()
    assert len(open_images(path, (12,), BYTES)) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * BLOCK_BYTES
    array[-1, 11] = 256
    with pytest.raises(UserError, match="beyond 0 to 255"):
        open_images(path, (12,), BYTES)


def of_zeros(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def long_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little"))
        file.truncate(1 << 40)


def promise(path: Path) -> None:
    """Write an array of which there is but the header."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 12)})


STRANGE: list[tuple[Callable[[Path], object], str, str]] = [
    (os.mkfifo, "a.png", "not a regular file, but a named pipe"),
    (os.mkfifo, "a.npy", "not a regular file, but a named pipe"),
    (Path.mkdir, "a.png", "not a regular file, but a folder"),
    (Path.mkdir, "a.npy", "not a regular file, but a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "a.png", "not a regular file, but a device"),
    (lambda path: path.symlink_to("/dev/zero"), "a.npy", "not a regular file, but a device"),
    (lambda path: path.symlink_to(path), "a.png", "symbolic links"),
    (lambda path: path.symlink_to(path), "a.npy", "symbolic links"),
    (lambda path: None, "a.png", "No such file"),
    (lambda path: None, "a.npy", "No such file"),
    (of_zeros, "a.png", "more than 67,108,864 bytes"),
    (of_zeros, "a.npy", r"no \.npy file of NumPy"),
    (long_header, "a.npy", "its header has 2,147,483,648 bytes, more than 65,536"),
    (promise, "a.npy", "mmap length is greater than file size"),
    (lambda path: path.write_bytes(b""), "a.png", "not PNG, JPEG, BMP, GIF or WebP"),
    (lambda path: path.write_bytes(b""), "a.npy", r"no \.npy file of NumPy"),
    (lambda path: path.write_bytes(b"PK\x03\x04"), "a.npy", r"no \.npy file of NumPy"),
    (lambda path: path.write_bytes(b"text"), "a.txt", "not PNG, JPEG, BMP, GIF or WebP"),
]


@pytest.mark.parametrize(("make", "name", "message"), STRANGE)
def test_what_is_no_image_is_refused(make: Callable[[Path], object], name: str, message: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        open_images(tmp_path / name, (12, 1), BYTES)


def test_names_that_no_file_can_have_are_refused() -> None:
    for name in ("a\0.png", "a\0.npy", "a" * 5000 + ".png", "a" * 5000 + ".npy"):
        with pytest.raises(UserError, match="cannot read"):
            open_images(name, (12, 1), BYTES)


def test_pictures_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = picture(tmp_path, GREY)
    with pytest.raises(UserError, match="it is 28 high and 28 wide; expected 8 and 8"):
        open_images(path, (8, 8), BYTES)
    with pytest.raises(UserError, match=r"give a \.npy file"):
        open_images(path, (784,), BYTES)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy on headers that it takes for those of Python 2
def test_damaged_arrays_give_user_errors_or_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    path = saved(tmp_path_factory.mktemp("npy"), np.zeros((3, 4), np.float32))
    path.write_bytes(damaged(data, path.read_bytes(), end=128))
    with read_or_refused():
        file = open_images(path, (3, 4), BYTES)
        assert file[len(file) - 1].shape == (12,)

"""Archives and tables of images for predictions: what they hold is read in bounded memory, or refused in a line."""

from __future__ import annotations

import io
import shutil
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import IMAGES, datasets
from numpy.lib import format as npy
from numpy.typing import NDArray
from strangers import bounded

from ffpipe.config.schema import Data
from ffpipe.data.inputs import Inputs, files_of
from ffpipe.data.scale import Given
from ffpipe.system.errors import UserError

INPUTS = Inputs((4, 3), Given("u", 255.0), Data())


def rows(path: Path, inputs: Inputs = INPUTS) -> NDArray[np.float32]:
    """Read all images of a file, none of which may be bad."""
    found = list(inputs.images(path))
    assert [index for index, _ in found] == list(range(len(found)))
    assert not [row for _, row in found if isinstance(row, UserError)]
    return np.array([row for _, row in found])


def zipped(path: Path, header: dict[str, Any], numbers: bytes, version: tuple[int, int] = (1, 0)) -> Path:
    """Write an archive of one array, with whatever its header says."""
    array = io.BytesIO()
    write = npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0
    write(array, {"descr": "|u1", "fortran_order": False, **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", array.getvalue() + numbers)
    return path


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 1, 2, 3)], ids=["channels first", "channels last"])
def test_channels_stand_where_training_has_them(axes: tuple[int, ...], tmp_path: Path) -> None:
    """The network takes images of 4 x 3 with two channels."""
    images = np.arange(5 * 24, dtype=np.uint8).reshape(5, 24)
    first = images.reshape(5, 2, 4, 3) if axes[-1] == 1 else images.reshape(5, 4, 3, 2)
    np.savez(tmp_path / "some.npz", x=first)
    found = rows(tmp_path / "some.npz", Inputs((4, 3, 2), Given("u", 255.0), Data()))
    np.testing.assert_allclose(found, first.transpose(axes).reshape(5, 24) / np.float32(255))


def test_an_archive_is_read_in_blocks(tmp_path: Path) -> None:
    images = np.arange(7 * 12, dtype=np.uint8).reshape(7, 4, 3)
    np.savez(tmp_path / "some.npz", x=images)
    for size in (INPUTS.block_bytes, 24, 1):
        found = rows(tmp_path / "some.npz", replace(INPUTS, block_bytes=size))
        np.testing.assert_allclose(found, images.reshape(7, 12) / np.float32(255))


def test_arrays_are_found_by_the_names_of_training_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", mine=np.full((1, 4, 3), 255, np.uint8), x=np.zeros((1, 4, 3), np.uint8))
    assert rows(tmp_path / "some.npz").max() == 0
    named = Inputs((4, 3), Given("u", 255.0), Data(arrays=("mine", "labels")))
    assert rows(tmp_path / "some.npz", named).min() == 1


@pytest.mark.parametrize(
    ("header", "numbers", "version", "says"),
    [
        ({"shape": (1 << 40, 4, 3)}, b"\0" * 120, (1, 0), "it ends after"),
        ({"shape": (10**30, 4, 3)}, b"", (1, 0), "it ends after"),
        ({"shape": (1 << 40, 4, 3), "fortran_order": True}, b"\0" * 120, (1, 0), "save it in C order"),
        ({"shape": (3, 4, 3), "fortran_order": True}, b"\0" * 12, (1, 0), "cannot be read"),
        ({"shape": (3, 4, 3)}, b"\0" * 36, (2, 0), "its header is of version (2, 0)"),
        ({"shape": (0, 4, 4)}, b"", (1, 0), "expected an array of images"),
        ({"shape": (4, 3)}, b"\0" * 12, (1, 0), "expected an array of images"),
        ({"shape": (3, 4, 3), "descr": "|O"}, b"", (1, 0), "expected an array of images"),
    ],
)
def test_a_header_that_promises_too_much(
    header: dict[str, Any], numbers: bytes, version: tuple[int, int], says: str, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "some.npz", header, numbers, version)
    with bounded(), pytest.raises(UserError) as refused:
        list(INPUTS.images(path))
    assert says in str(refused.value)


def test_what_came_before_the_end_is_read(tmp_path: Path) -> None:
    two_at_once = replace(INPUTS, block_bytes=24)
    path = zipped(tmp_path / "cut.npz", {"shape": (9, 4, 3)}, b"\0" * 60)
    with pytest.raises(UserError, match="its images from number 4 on are left out"):
        list(two_at_once.images(path))
    images = two_at_once.images(path)
    assert [next(images)[0] for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_archives_give_user_errors_or_are_read(seed: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(seed)
    path = tmp_path / "some.npz"
    (np.savez if seed % 2 else np.savez_compressed)(path, x=np.zeros((3, 4, 3)), y=np.arange(3))
    data = bytearray(path.read_bytes())
    for place in chance.integers(4, len(data), 3):
        data[place] = chance.integers(256)
    path.write_bytes(bytes(data[: chance.integers(30, len(data))] if seed % 5 == 0 else data))
    widths = set[int]()
    with bounded(), suppress(UserError):
        for _, row in INPUTS.images(path):
            widths.add(12 if isinstance(row, UserError) else len(row))
    assert widths <= {12}


@pytest.mark.parametrize("trained", [Given("f", 255.0), Given("u", 255.0), Given()])
def test_a_row_without_a_pixel_is_refused_alone(trained: Given, tmp_path: Path) -> None:
    lines = [[*"1", *map(str, range(12))] for _ in range(3)]  # a label and pixels
    lines[1][4] = ""
    (tmp_path / "some.csv").write_text("\n".join(map(",".join, [[*"l", *(f"p{at}" for at in range(12))], *lines])))
    inputs = Inputs((4, 3), trained, Data(label_column="l"))
    first, second, third = (row for _, row in inputs.images(tmp_path / "some.csv"))
    for read in (first, third):
        np.testing.assert_array_equal(read, np.arange(12, dtype=np.float32) / 255)
    assert "the column 'p3' is null at row 1" in str(second)


def test_a_deep_folder_has_an_end(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "a"
    deep.mkdir(parents=True)
    (deep / "one.png").touch()
    assert list(files_of(tmp_path)) == [deep / "one.png"]
    assert list(files_of(deep / "one.png")) == [deep / "one.png"]


def test_a_folder_without_pictures_stands_for_its_tables(tmp_path: Path) -> None:
    saved = datasets(tmp_path)
    (saved / ".cache").mkdir()
    (saved / ".cache" / "left.csv").write_text("1,2\n")
    shutil.copy(saved / "train" / "data-00000-of-00001.arrow", saved / "train" / "cache-1.arrow")  # no part of the set
    found = list(files_of(saved))
    assert found == [saved / part / "data-00000-of-00001.arrow" for part in ("test", "train")]
    of_pictures = Inputs((4, 4), Given("u", 255.0), Data())
    for file in found:
        np.testing.assert_array_equal(rows(Path(file), of_pictures), IMAGES.reshape(30, -1) / np.float32(255))
    (saved / "one.png").touch()
    assert list(files_of(saved)) == [saved / "one.png"]

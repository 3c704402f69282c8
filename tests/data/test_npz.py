from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from broken import damaged, read_or_refused
from forms import everything
from hypothesis import given, settings
from hypothesis import strategies as st

from ffpipe.data import npz, source
from ffpipe.system.errors import UserError

Write = Callable[..., Path]

IMAGES = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
LABELS = np.array([0, 1, 2, 1])


def opened(part: source.Part | None) -> tuple[np.ndarray, np.ndarray]:
    assert part
    return everything(part.open())


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes an archive of arrays, or of the bytes of .npy files."""
    path = tmp_path_factory.mktemp("npz") / "set.npz"

    def save(compression: int = zipfile.ZIP_DEFLATED, /, **members: np.ndarray | bytes) -> Path:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, member in members.items():
                archive.writestr(f"{name}.npy", member if isinstance(member, bytes) else npy(member))
        return path

    return save


NAMES = [
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
    ("images", "labels"),
    ("x", "y"),
    ("X", "y"),
    ("data", "target"),
    ("arr_0", "arr_1"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_layouts(write: Write, names: tuple[str, str], compression: int) -> None:
    path = write(compression, **dict(zip(names, (IMAGES, LABELS), strict=True)))
    images, labels = opened(npz.part([path], "train", (), "training.data.train"))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_saves(tmp_path: Path, order: Literal["C", "F"]) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=np.array(IMAGES, order=order), y=LABELS)
    images, _ = opened(npz.part([tmp_path / "set.npz"], "train", (), "training.data.train"))
    np.testing.assert_array_equal(images, IMAGES)


def test_keras_archive_brings_its_test_part(write: Write) -> None:
    path = write(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2] + 1, y_test=LABELS[:2])
    images, labels = opened(npz.test_part(path, (), "training.data.train"))
    np.testing.assert_array_equal(images, IMAGES[:2] + 1)
    np.testing.assert_array_equal(labels, LABELS[:2])
    assert opened(npz.part([path], "test", (), "training.data.test"))[0].shape == (2, 3, 3)


def test_arrays_that_are_named(write: Write) -> None:
    path = write(pictures=IMAGES, kinds=LABELS, other=IMAGES[:2], more=LABELS[:2])
    with pytest.raises(UserError, match=r"it has kinds, more, other, pictures: training\.data\.arrays names those"):
        npz.part([path], "train", (), "f")
    names = ("pictures", "kinds", "other", "more")
    assert len(opened(npz.part([path], "train", names, "f"))[0]) == 4
    assert len(opened(npz.part([path], "train", names[:2], "f"))[0]) == 4
    assert len(opened(npz.test_part(path, names, "f"))[0]) == 2
    assert npz.test_part(path, names[:2], "f") is None
    with pytest.raises(UserError, match="arrays names 'kind', but it has kinds, more, other, pictures"):
        npz.part([path], "train", ("pictures", "kind"), "f")
    with pytest.raises(UserError, match="names 3 arrays; expected IMAGES LABELS"):
        npz.part([path], "train", names[:3], "f")


def test_a_file_for_images_and_one_for_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", IMAGES)
    np.savez(tmp_path / "labels.npz", LABELS)
    np.save(tmp_path / "images.npy", np.asfortranarray(IMAGES))
    np.save(tmp_path / "labels.npy", LABELS)
    archives = npz.part([tmp_path / "images.npz", tmp_path / "labels.npz"], "train", (), "f")
    for part in (archives, npz.npy_part(tmp_path / "images.npy", tmp_path / "labels.npy", "f")):
        images, labels = opened(part)
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)


def test_other_archives_bring_none(write: Write) -> None:
    assert npz.test_part(write(x=IMAGES, y=LABELS), (), "training.data.train") is None


@pytest.mark.parametrize("dtype", ["?", "<u2", ">i4", "<i8", "<f2", ">f4", "<f8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_every_dtype_comes_as_it_is(write: Write, dtype: Any, version: tuple[int, int]) -> None:
    part = npz.part([write(x=npy(IMAGES.astype(dtype), version), y=LABELS)], "train", (), "training.data.train")
    images, _ = opened(part)
    assert images.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(images, IMAGES.astype(dtype))


def test_labels_in_a_column(write: Write) -> None:
    _, labels = opened(npz.part([write(x=IMAGES, y=LABELS[:, None].astype(np.uint8))], "train", (), "f"))
    np.testing.assert_array_equal(labels[:, 0], LABELS)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


HUGE = npy(np.zeros((2, 3), np.uint8)).replace(b"(2, 3), }    ", b"(2, 99999), }")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": IMAGES}, r"expected the arrays \(x_train, y_train\) or .*; it has a"),
        ({}, "it has none"),
        ({"x": np.array([None, 1, 2, 3]), "y": LABELS}, "Object arrays cannot be loaded"),
        ({"x": pickle.dumps(Bomb()), "y": LABELS}, "x is not an array"),
        ({"x": IMAGES, "y": np.array([Bomb()] * 4)[:0].astype(object)}, "Object arrays cannot be loaded"),
        ({"x": IMAGES.astype(complex), "y": LABELS}, "x holds complex128"),
        ({"x": np.full((4, 3), "a"), "y": LABELS}, "x holds <U1"),
        ({"x": IMAGES, "y": LABELS[:3]}, "expected one label an image"),
        ({"x": IMAGES, "y": np.array(3)}, "expected one label an image"),
        ({"x": LABELS, "y": LABELS}, r"expected \(examples, ...\)"),
        ({"x": np.zeros((4, 0), np.uint8), "y": LABELS}, "values an image"),
        ({"x": HUGE, "y": LABELS[:2]}, "cannot be read"),
        ({"x": npy(IMAGES)[:-1], "y": LABELS}, "cannot be read"),
        ({"x": npy(IMAGES).replace(b"(4, 3, 3)", b"(4,-3,-3)"), "y": LABELS}, "cannot be read"),
        ({"x": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(9000), "y": LABELS}, "cannot be read"),
    ],
)
def test_what_is_refused(write: Write, members: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened(npz.part([write(**members)], "train", (), "training.data.train"))
    assert "\n" not in str(caught.value)


def test_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"set\.npz: cannot be read: File is not a zip file"):
        npz.part([tmp_path / "set.npz"], "train", (), "training.data.train")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_truncated_anywhere(write: Write, compression: int) -> None:
    path = write(compression, x=IMAGES, y=LABELS)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            opened(npz.part([path], "train", (), "training.data.train"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy on headers that it takes for those of Python 2
@settings(max_examples=250, deadline=None)
@given(data=st.data(), compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_damaged_archives_give_user_errors_or_are_read(
    write: Write,
    data: st.DataObject,
    compression: int,
) -> None:
    path = write(compression, x=IMAGES, y=LABELS)
    path.write_bytes(damaged(data, path.read_bytes(), 4))
    with read_or_refused():
        images, labels = opened(npz.part([path], "train", (), "training.data.train"))
        assert len(images) == len(labels)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damaged_headers_within_sound_archives(
    write: Write,
    data: st.DataObject,
) -> None:
    """The CRC of the zip does not help here: the damage is in what was archived."""
    path = write(x=damaged(data, npy(IMAGES), 4, 128), y=LABELS)
    with read_or_refused():
        images, labels = opened(npz.part([path], "train", (), "training.data.train"))
        assert len(images) == len(labels)

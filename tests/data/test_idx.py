from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import damaged, read_or_refused
from forms import everything
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ffpipe.data import arrow, idx, source
from ffpipe.data.labels import Classes
from ffpipe.data.scale import Scale
from ffpipe.system.errors import UserError

Pair = Callable[..., tuple[Path, Path]]
Encode = Callable[[NDArray[Any]], bytes]

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)
LABELS = np.array([2, 0, 1], np.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, idx_bytes: Encode) -> Pair:
    """Writes images and labels, given as arrays or as the bytes of a file, and returns the two paths."""
    folder = tmp_path_factory.mktemp("idx")

    def write(images: NDArray[Any] | bytes = IMAGES, labels: NDArray[Any] | bytes = LABELS) -> tuple[Path, Path]:
        paths = folder / "images", folder / "labels"
        for path, what in zip(paths, (images, labels), strict=True):
            path.write_bytes(what if isinstance(what, bytes) else idx_bytes(what))
        return paths

    return write


def opened(paths: tuple[Path, Path], block: int = source.BLOCK_BYTES) -> tuple[np.ndarray, np.ndarray]:
    return everything(idx.contents(*paths, block_bytes=block))


@settings(max_examples=60, deadline=None)
@given(
    images=st.sampled_from([np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))
    ),
    label_type=st.sampled_from([np.uint8, np.int8, np.int32]),
    zipped=st.booleans(),
    block=st.sampled_from([1, 20, 1 << 20]),
)
def test_round_trip(
    pair: Pair,
    idx_bytes: Encode,
    images: NDArray[Any],
    label_type: Any,
    zipped: bool,
    block: int,
) -> None:
    labels = np.arange(len(images)).astype(label_type)
    files = [gzip.compress(idx_bytes(array), 1) if zipped else idx_bytes(array) for array in (images, labels)]
    read, read_labels = opened(pair(*files), block)
    np.testing.assert_array_equal(read, images)
    assert read.dtype == images.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read_labels, labels)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_truncated_anywhere(pair: Pair, idx_bytes: Encode, zipped: bool, which: int) -> None:
    whole = [gzip.compress(idx_bytes(a)) if zipped else idx_bytes(a) for a in (IMAGES, LABELS)]
    for end in range(len(whole[which])):
        files = list(whole)
        files[which] = whole[which][:end]
        with pytest.raises(UserError):
            opened(pair(*files))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), zipped=st.booleans(), which=st.integers(0, 1))
def test_damaged_headers_give_user_errors_or_are_read(
    pair: Pair,
    idx_bytes: Encode,
    data: st.DataObject,
    zipped: bool,
    which: int,
) -> None:
    files = [gzip.compress(idx_bytes(a)) if zipped else idx_bytes(a) for a in (IMAGES, LABELS)]
    files[which] = damaged(data, files[which], end=24)
    with read_or_refused():
        images, labels = opened(pair(*files))
        assert len(images) == len(labels)


@pytest.mark.parametrize("zipped", [False, True])
def test_trailing_bytes(pair: Pair, idx_bytes: Encode, zipped: bool) -> None:
    longer = idx_bytes(IMAGES) + b"\0"
    with pytest.raises(UserError, match="images: there are bytes after the last of 3 rows"):
        opened(pair(gzip.compress(longer) if zipped else longer))


@pytest.mark.parametrize("zipped", [False, True])
def test_absurd_dimensions_are_refused_from_the_header(pair: Pair, zipped: bool) -> None:
    header = bytes([0, 0, 8, 3]) + b"\xff" * 12
    with pytest.raises(UserError, match="has 4294967295 images, but"):
        idx.contents(*pair(gzip.compress(header) if zipped else header))


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """64 MB through blocks of 1 MB."""
    count = 1 << 16
    with (tmp_path / "images").open("wb") as file:
        file.write(bytes([0, 0, 8, 3]) + np.array([count, 32, 32], ">u4").tobytes())
        file.truncate(16 + count * 1024)
    (tmp_path / "labels").write_bytes(bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes() + bytes(count))
    tracemalloc.start()
    with (tmp_path / "sink").open("wb") as sink:
        contents = idx.contents(tmp_path / "images", tmp_path / "labels", block_bytes=1 << 20)
        meaning = arrow.Meaning(Classes(1), Scale(255, contents.dtype, contents.dtype))
        arrow.write(sink, contents, contents.labels.astype(np.int64), meaning, batch_bytes=3 << 19)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(arrow.Stored(tmp_path / "sink")) == count
    assert peak < 12 << 20


def test_a_row_too_large_to_be_an_image(pair: Pair) -> None:
    """A gzip bomb whose size agrees with its header is refused all the same, before a row is allocated."""
    rows = 1 << 25
    bomb = gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 1]) + rows.to_bytes(4, "big") + bytes(rows), 9)
    with pytest.raises(UserError, match="values an image"):
        idx.contents(*pair(bomb, np.zeros(1, np.uint8)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (LABELS, IMAGES, "expected images"),
        (IMAGES, IMAGES, "expected labels"),
        (IMAGES, LABELS[:2], "3 images, but .* 2 labels"),
        (np.zeros((3, 0), np.uint8), LABELS, "values an image"),
        (b"", LABELS, "starts with nothing"),
        (b"\x89PNG\r\n\x1a\n", LABELS, "not an IDX file: it starts with 89 50 4e 47"),
    ],
)
def test_what_does_not_fit(pair: Pair, images: NDArray[Any], labels: NDArray[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        idx.contents(*pair(images, labels))


def test_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.data\.train: there is no file .*nowhere"):
        idx.part(tmp_path / "nowhere", tmp_path / "nowhere", "training.data.train")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        idx.part(tmp_path, tmp_path, "training.data.train")

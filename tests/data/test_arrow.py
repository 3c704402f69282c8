from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from broken import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from mappings import resident
from numpy.typing import NDArray

from ffpipe.data import arrow
from ffpipe.data.labels import Classes
from ffpipe.data.scale import Scale
from ffpipe.data.source import OpenedPart
from ffpipe.system.errors import UserError

Reopen = Callable[[bytes], arrow.Stored]

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (10, 6), np.uint8)
FLOATS = RNG.normal(size=(10, 6)).astype(np.float32)
LABELS = np.arange(10) % 3


def contents(images: NDArray[Any] = BYTES, labels: NDArray[Any] = LABELS, cuts: Sequence[int] = ()) -> OpenedPart:
    return OpenedPart("file", (2, 3), images.dtype, 255, labels.astype(np.int64), lambda: iter(np.split(images, cuts)))


def meaning(dtype: np.dtype[Any]) -> arrow.Meaning:
    return arrow.Meaning(Classes(3, ("a", "b", "c"), mapped=True), Scale(255, dtype, dtype), "found")


def written(what: OpenedPart, batch_bytes: int = 1 << 20) -> bytes:
    sink = io.BytesIO()
    arrow.write(sink, what, what.labels, meaning(what.dtype), batch_bytes)
    return sink.getvalue()


@pytest.fixture(scope="module")
def reopen(tmp_path_factory: pytest.TempPathFactory) -> Reopen:
    path = tmp_path_factory.mktemp("arrow") / "part.arrow"

    def opened(data: bytes) -> arrow.Stored:
        path.unlink(missing_ok=True)  # a mapped file must not change under who has mapped it
        path.write_bytes(data)
        return arrow.Stored(path)

    return opened


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 10)).map(sorted),
    batch_rows=st.integers(1, 12),
    images=st.sampled_from([BYTES, FLOATS]),
    rows=st.lists(st.integers(0, 9)).map(lambda rows: np.array(rows, np.int64)),
)
def test_any_blocks_into_any_batches_and_any_rows_back(
    reopen: Reopen, cuts: list[int], batch_rows: int, images: NDArray[Any], rows: NDArray[np.int64]
) -> None:
    data = written(contents(images, cuts=cuts), batch_bytes=batch_rows * 6 * images.itemsize)
    stored = reopen(data)
    sizes = [batch.num_rows for batch in pa.ipc.open_file(data).read_all().to_batches()]
    assert set(sizes[:-1]) <= {batch_rows}
    assert sizes[-1] <= batch_rows
    np.testing.assert_array_equal(stored.images(rows), images[rows])
    np.testing.assert_array_equal(stored.labels(rows), LABELS[rows])
    assert stored.images(rows).dtype == images.dtype
    assert (len(stored), stored.shape, stored.features, stored.classes, stored.divisor) == (10, (2, 3), 6, 3, 255)


def test_others_can_read_the_file(reopen: Reopen) -> None:
    table = pa.ipc.open_file(written(contents())).read_all()
    assert table.schema.field("image").type == pa.list_(pa.uint8(), 6)
    assert table.schema.field("label").type == pa.int64()
    header = json.loads(table.schema.metadata[b"ffpipe"])
    assert {name: header[name] for name in ("format", "shape", "count")} == {
        "format": arrow.FORMAT,
        "shape": [2, 3],
        "count": 10,
    }
    assert reopen(written(contents())).meaning == meaning(BYTES.dtype)


def test_what_is_read_is_a_copy(reopen: Reopen) -> None:
    stored = reopen(written(contents()))
    rows = np.arange(10)
    stored.images(rows)[:] = 0
    np.testing.assert_array_equal(stored.images(rows), BYTES)


def with_at(images: np.ndarray, row: int, value: float) -> np.ndarray:
    changed = images.copy()
    changed[row, 0] = value
    return changed


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (contents(with_at(FLOATS, 7, np.nan), cuts=[4]), "file: the image at row 7 holds NaN or infinity"),
        (contents(with_at(FLOATS, 0, -np.inf)), "file: the image at row 0 holds NaN or infinity"),
        (contents(labels=LABELS[:9]), "there are 10 images, but 9 labels"),
        (contents(BYTES[:9]), "there are 9 images, but 10 labels"),
        (contents(BYTES[:, :5]), r"images from row 0 on are uint8 \(5,\), but the first is uint8 \(6,\)"),
    ],
)
def test_write_refuses(what: OpenedPart, message: str) -> None:
    with pytest.raises(UserError, match=message):
        written(what)


def test_truncated_anywhere(reopen: Reopen) -> None:
    whole = written(contents(), batch_bytes=24)
    for end in range(len(whole)):
        with pytest.raises(arrow.BadFile):
            reopen(whole[:end])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_noticed_or_does_not_matter_to_the_structure(reopen: Reopen, data: st.DataObject) -> None:
    try:
        stored = reopen(damaged(data, written(contents(), batch_bytes=24)))
    except arrow.BadFile:
        return
    rows = np.arange(len(stored))
    assert stored.images(rows).shape == (len(stored), stored.features)
    assert stored.labels(rows).shape == (len(stored),)


@pytest.mark.parametrize("change", [{"count": 9}, {"format": 0}, {"shape": [7]}, {"shape": None}])
def test_a_header_that_does_not_fit(reopen: Reopen, change: dict[str, Any]) -> None:
    table = pa.ipc.open_file(written(contents())).read_all()
    header = json.loads(table.schema.metadata[b"ffpipe"]) | change
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema.with_metadata({b"ffpipe": json.dumps(header)})) as writer:
        writer.write_table(table)
    with pytest.raises(arrow.BadFile):
        reopen(sink.getvalue())


def test_absent_empty_and_foreign_files(reopen: Reopen, tmp_path: Path) -> None:
    with pytest.raises(arrow.BadFile):
        arrow.Stored(tmp_path / "nowhere")
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, pa.schema([("image", pa.int8())])):
        pass
    for data in (b"", b"text", sink.getvalue()):
        with pytest.raises(arrow.BadFile):
            reopen(data)


def test_of_a_large_file_nothing_stays_mapped_in(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (32 << 10, 1 << 10), np.uint8)
    what = OpenedPart("file", (32, 32), images.dtype, 255, np.zeros(len(images), np.int64), lambda: iter([images]))
    path = tmp_path / "large.arrow"
    path.write_bytes(written(what, batch_bytes=4 << 20))
    stored = arrow.Stored(path, 16 << 20)
    for _ in range(50):
        rows = RNG.integers(0, len(images), 100)
        assert np.array_equal(stored.images(rows), images[rows])
        assert resident(path) < stored.most_in_sight == 16 << 20

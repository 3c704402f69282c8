from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forms import hugging_face
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data.examples import Examples
from ffpipe.data.splits import load_splits
from ffpipe.system import rng
from ffpipe.system.errors import UserError

Make = Callable[..., tuple[str, ...]]
Format = Literal["idx", "npz", "parquet"]

COUNT = 50
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 4), np.uint8)
LABELS = (np.arange(COUNT) % 5).astype(np.uint8)


@pytest.fixture
def make(tmp_path: Path, idx_bytes: Callable[[NDArray[Any]], bytes]) -> Make:
    """Writes a set in one of the formats and returns the names of its files."""

    def write(
        source: str, images: NDArray[Any] = IMAGES, labels: NDArray[Any] = LABELS, name: str = "set"
    ) -> tuple[str, ...]:
        path = tmp_path / f"{name}.{source}"
        if source == "idx":
            path.write_bytes(idx_bytes(images))
            path.with_suffix(".labels").write_bytes(idx_bytes(labels))
            return str(path), str(path.with_suffix(".labels"))
        if source == "npz":
            with path.open("wb") as file:
                np.savez(file, x=images, y=labels)
        else:
            pq.write_table(pa.table({"image": hugging_face(images), "label": labels}), path)
        return (str(path),)

    return write


def every(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(examples))
    return examples.images(rows), examples.labels(rows)


def assert_rows(examples: Examples, rows: np.ndarray) -> None:
    images, labels = every(examples)
    np.testing.assert_array_equal(images, IMAGES[rows].reshape(-1, 12) / np.float32(255))
    np.testing.assert_array_equal(labels, LABELS[rows])


@pytest.mark.parametrize("source", ["idx", "npz", "parquet"])
def test_every_source_gives_the_same_splits(make: Make, source: Format) -> None:
    splits = load_splits(Data(source=source, train=make(source), test_count=10, validation=5, train_limit=20))
    order = rng.generator(0, "split").permutation(COUNT)
    assert_rows(splits.train, order[:20])
    assert_rows(splits.validation, order[35:40])
    assert_rows(splits.test, order[40:])
    assert (splits.features, splits.classes, splits.shape) == (12, 5, (3, 4))


@pytest.mark.parametrize("source", ["idx", "npz", "parquet"])
def test_test_files(make: Make, source: Format) -> None:
    test = make(source, IMAGES[:7], LABELS[:7], "test")
    splits = load_splits(Data(source=source, train=make(source), test=test, split_seed=-1))
    assert_rows(splits.train, np.arange(COUNT))
    assert len(splits.validation) == 0
    assert_rows(splits.test, np.arange(7))


def test_the_file_order_and_other_seeds(make: Make) -> None:
    files = make("npz")
    in_order = load_splits(Data(source="npz", train=files, test_count=5, split_seed=-1))
    assert_rows(in_order.test, np.arange(45, 50))
    seeds = [load_splits(Data(source="npz", train=files, test_count=5, split_seed=seed)) for seed in (3, 3, 4)]
    tests = [every(splits.test)[0].tobytes() for splits in seeds]
    assert tests[0] == tests[1] != tests[2]


def test_a_limit_beyond_what_is_there(make: Make) -> None:
    assert len(load_splits(Data(source="npz", train=make("npz"), test_count=5, train_limit=1000)).train) == 45


def test_a_keras_archive(tmp_path: Path) -> None:
    path = tmp_path / "keras.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:7], y_test=LABELS[:7])
    splits = load_splits(Data(source="npz", train=(str(path),)))
    assert (len(splits.train), len(splits.test)) == (COUNT, 7)
    with pytest.raises(UserError, match=r"training\.data\.test_count is 5, but the source has a test part"):
        load_splits(Data(source="npz", train=(str(path),), test_count=5))


def test_digits() -> None:
    splits = load_splits(Data(test_count=297, validation=100))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1400, 100, 297)
    assert (splits.shape, splits.classes) == ((8, 8), 10)
    assert every(splits.train)[0].max() == 1.0


def test_converted_once_for_all_splits(make: Make, cache_folder: Path) -> None:
    files = make("npz")
    for validation in (0, 5):
        load_splits(Data(source="npz", train=files, test_count=5, validation=validation))
    assert len(list(cache_folder.iterdir())) == 1


def test_a_source_that_changed_is_converted_anew(make: Make) -> None:
    data = Data(source="npz", train=make("npz"), test_count=5, split_seed=-1)
    load_splits(data)
    make("npz", IMAGES[::-1])
    np.testing.assert_array_equal(every(load_splits(data).train)[0][0], IMAGES[-1].reshape(-1) / np.float32(255))


def test_more_classes_than_there_are_labels(make: Make) -> None:
    assert load_splits(Data(source="npz", train=make("npz"), test_count=5, classes=9)).classes == 9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_count": 0}, r"set training\.data\.test_count .* or name files in training\.data\.test"),
        (
            {"test_count": 40, "validation": 10},
            r"training\.data\.test_count 40 and training\.data\.validation 10 .*are 50",
        ),
        ({"test_count": 5, "classes": 4}, r"the label 4 at row 4 is not in 0\.\.3; .*training\.data\.classes"),
        ({"test_count": 5, "train": ()}, r"training\.data\.train is empty"),
        ({"test_count": 5, "train": ("a", "b", "c")}, r"training\.data\.train names 3 file\(s\), but npz takes one"),
        ({"test_count": 5, "train": ("nowhere",)}, r"training\.data\.train: there is no file nowhere"),
        ({"test": ("nowhere",)}, r"training\.data\.test: there is no file nowhere"),
        (
            {"test_count": 5, "source": "idx", "train": ("nowhere",)},
            r"training\.data\.train names 1 file\(s\), but idx takes two: IMAGES LABELS",
        ),
        ({"test_count": 5, "source": "digits"}, r"training\.data\.train names files, but .* 'digits' reads none"),
        (
            {"source": "mnist", "train": (), "test": ("a",)},
            r"training\.data\.test names files, but .* 'mnist' reads none",
        ),
        ({"source": "digits", "train": ()}, r"'digits' has no test part here: set training\.data\.test_count [^,]*$"),
    ],
)
def test_what_is_refused(make: Make, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_splits(Data(**({"source": "npz", "train": make("npz")} | fields)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:, :2], LABELS, r"test images have the shape \(2, 4\), but the training images \(3, 4\)"),
        (IMAGES.astype(np.float32) * 2, LABELS, r"float32, .* uint8, .* beyond 0 to 1 .* training\.data\.scale"),
        (IMAGES, LABELS + 1, r"test\.npz: the label 5 at row 4 is not in 0\.\.4"),
        (IMAGES[:0], LABELS[:0], "there are no examples"),
    ],
)
def test_test_files_that_do_not_fit(make: Make, images: NDArray[Any], labels: NDArray[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_splits(Data(source="npz", train=make("npz"), test=make("npz", images, labels, "test")))

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ffpipe.data import cache
from ffpipe.data.examples import Examples
from ffpipe.data.source import OpenedPart, Part

LABELS = np.arange(10) % 4
BYTES = np.random.default_rng(0).integers(0, 256, (10, 6), np.uint8)
FLOATS = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)


def examples(images: NDArray[Any] = BYTES, divisor: int = 255, order: NDArray[np.int64] | None = None) -> Examples:
    contents = OpenedPart("made", (2, 3), images.dtype, divisor, LABELS, lambda: iter([images]))
    return Examples(cache.stored(Part("made", (divisor,), lambda: contents)), order)


@pytest.mark.parametrize(("images", "divisor"), [(BYTES, 255), (BYTES % 17, 16), (BYTES % 2, 1), (FLOATS, 1)])
def test_scaled_to_float32(images: NDArray[Any], divisor: int) -> None:
    rows = np.array([3, 0, 3])
    read = examples(images, divisor).images(rows)
    assert read.dtype == np.float32
    assert read.shape == (3, 6)
    np.testing.assert_array_equal(read, images[rows].astype(np.float32) / np.float32(divisor))


def test_the_order_is_applied() -> None:
    order = np.array([9, 2, 5])
    view = examples(order=order)
    assert len(view) == 3
    np.testing.assert_array_equal(view.labels(np.array([2, 0])), LABELS[[5, 9]])
    np.testing.assert_array_equal(view.images(np.array([2, 0])), BYTES[[5, 9]] / np.float32(255))


def test_what_it_says_of_itself() -> None:
    view = examples()
    assert (len(view), view.features, view.classes, view.shape) == (10, 6, 4, (2, 3))
    assert view.labels(np.arange(10)).dtype == np.int64


@pytest.mark.parametrize("order", [None, np.arange(10)])
@pytest.mark.parametrize("row", [-1, 10])
def test_rows_that_are_not_there(order: NDArray[np.int64] | None, row: int) -> None:
    with pytest.raises(IndexError, match=r"not all in 0\.\.9"):
        examples(order=order).images(np.array([0, row]))


@pytest.mark.parametrize("order", [None, np.arange(0)])
def test_no_rows(order: NDArray[np.int64] | None) -> None:
    view = examples(order=order)
    assert view.images(np.arange(0)).shape == (0, 6)
    assert view.labels(np.arange(0)).shape == (0,)


def test_data_are_never_pickled() -> None:
    with pytest.raises(TypeError, match="load_splits"):
        pickle.dumps(examples())

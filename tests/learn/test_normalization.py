"""Normalisation by channel: small numbers by hand, larger ones against numpy, and bits that depend on no block."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ffpipe.data.arrow import Meaning, Stored, write
from ffpipe.data.examples import Examples
from ffpipe.data.labels import Classes
from ffpipe.data.scale import scale_of
from ffpipe.data.source import OpenedPart
from ffpipe.learn.normalization import Normalization, measured
from ffpipe.system.errors import UserError


def examples(folder: Path, images: NDArray[np.float32] | NDArray[np.uint8], divisor: int = 1) -> Examples:
    """Return a split of images (n, height, width[, channels]), in a file of many batches."""
    count = len(images)
    flat, labels = images.reshape(count, -1), np.zeros(count, np.int64)
    contents = OpenedPart("made", images.shape[1:], images.dtype, divisor, labels, lambda: iter([flat]))
    path = folder / "images.arrow"
    with path.open("wb") as sink:
        write(sink, contents, labels, Meaning(Classes(1), scale_of(contents)), batch_bytes=10 * flat[0].nbytes)
    return Examples(Stored(path))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (20,)])
def test_against_numpy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 256, size=(57, *shape), dtype=np.uint8)
    means, deviations = measured(examples(tmp_path, images, 255), shape)
    scaled = (images / np.float32(255)).reshape(-1, 3 if len(shape) == 3 else 1).astype(np.float64)
    np.testing.assert_allclose(means, scaled.mean(0), rtol=1e-14)
    np.testing.assert_allclose(deviations, scaled.std(0), rtol=1e-14)
    assert all(type(value) is float for value in means + deviations)


@pytest.mark.parametrize("batch", [1, 2, 10, 56, 1000])
def test_bits_do_not_depend_on_the_block(tmp_path: Path, batch: int) -> None:
    images = np.random.default_rng(2).normal(3, 2, size=(57, 4, 4, 3)).astype(np.float32)
    split = examples(tmp_path, images)
    assert measured(split, split.shape, batch) == measured(split, split.shape)


def test_a_small_deviation_far_from_zero(tmp_path: Path) -> None:
    images = np.full((40, 2, 2), 2.0**20, np.float32)
    images[::2] += 1
    assert measured(examples(tmp_path, images), (2, 2)) == ((2.0**20 + 0.5,), (0.5,))


def test_a_constant_channel_is_named(tmp_path: Path) -> None:
    images = np.random.default_rng(3).random((50, 3, 3, 3), dtype=np.float32)
    images[..., 1] = 0.1
    mean, deviation = measured(examples(tmp_path, images), (3, 3, 3))
    assert (mean[1], deviation[1]) == (float(np.float32(0.1)), 0.0)
    with pytest.raises(UserError, match=r"training.deviation is 0 for channel 1, .* turn training.standardize off"):
        Normalization(mean, deviation)


@pytest.mark.parametrize("deviation", [-0.5, math.nan])
def test_deviations_are_above_0(deviation: float) -> None:
    with pytest.raises(UserError, match="for channel 0"):
        Normalization((0.0, 0.0), (deviation, 1.0))


@pytest.mark.parametrize(
    ("mean", "deviation", "shape", "message"),
    [
        (3, 3, (4, 4), r"training.mean has 3 number\(s\), but an image of shape \(4, 4\) has 1 channel"),
        (1, 3, (4, 4, 3), r"training.mean has 1 number\(s\), but an image of shape \(4, 4, 3\) has 3 channel"),
        (3, 1, (4, 4, 3), r"training.deviation has 1 number\(s\)"),
    ],
)
def test_numbers_that_do_not_fit(mean: int, deviation: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Normalization((0.5,) * mean, (0.5,) * deviation).check(shape)


def test_numbers_that_fit() -> None:
    Normalization((0.5,), (0.5,)).check((4, 4))
    Normalization((0.5,), (0.5,)).check((16,))
    Normalization((0.5,) * 3, (0.5,) * 3).check((4, 4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_applied_by_hand(dtype: torch.dtype) -> None:
    images = torch.tensor([[1, 10, 100, 2, 20, 200], [3, 30, 300, 4, 40, 400]], dtype=dtype)
    before = images.clone()
    result = Normalization((2.0, 20.0, 200.0), (1.0, 5.0, 400.0)).apply(images, (1, 2, 3))
    assert result.tolist() == [[-1, -2, -0.25, 0, 0, 0], [1, 2, 0.25, 2, 4, 0.5]]
    assert result.dtype == dtype
    assert torch.equal(images, before)
    assert Normalization((3.0,), (4.0,)).apply(images[:, :4], (2, 2)).tolist()[0] == [-0.5, 1.75, 24.25, -0.25]

"""Masks of large patches, and hybrids that take every pixel from one of two images."""

from __future__ import annotations

import numpy as np
import torch

from ffpipe.learn.hybrids import BLURS, blur_matrix, hybrid_images, random_masks


def test_the_blur_is_the_filter_of_the_paper_again_and_again() -> None:
    line = np.random.default_rng(0).random(12)
    expected = line.copy()
    for _ in range(BLURS):
        padded = np.concatenate([[0.0], expected, [0.0]])
        expected = padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4
    np.testing.assert_allclose(blur_matrix(12).numpy() @ line, expected, rtol=1e-5)


def by_hand(bits: np.ndarray) -> np.ndarray:
    """Return the mask of one image's random bits, pixel by pixel; beyond the edge there is neither 0 nor 1, but 1/2."""
    height, width = bits.shape
    field = bits.astype(np.float64)  # quarters of quarters, all of them exact
    for _ in range(BLURS):
        before = field.copy()
        for y in range(height):
            for x in range(width):
                left = before[y, x - 1] if x > 0 else 0.5
                right = before[y, x + 1] if x < width - 1 else 0.5
                field[y, x] = left / 4 + before[y, x] / 2 + right / 4
        before = field.copy()
        for y in range(height):
            for x in range(width):
                above = before[y - 1, x] if y > 0 else 0.5
                below = before[y + 1, x] if y < height - 1 else 0.5
                field[y, x] = above / 4 + before[y, x] / 2 + below / 4
    assert abs(field - 0.5).min() > 1e-6, "no pixel may hang on the rounding of float32: take another seed"
    return np.asarray(field > 0.5)


def test_a_mask_and_a_hybrid_by_hand() -> None:
    chance = np.random.default_rng(23)
    away = int(chance.integers(1, 3))
    bits = chance.integers(0, 2, size=(3, 9, 14), dtype=np.int8)
    masks = np.stack([by_hand(each) for each in bits])
    assert masks.any((1, 2)).all(), "a mask that is empty tells nothing: take another seed"
    chance = np.random.default_rng(23)
    chance.integers(1, 3)
    np.testing.assert_array_equal(random_masks(3, (9, 14), chance).numpy(), masks)

    images = torch.arange(3.0 * 9 * 14).reshape(3, 9 * 14)
    expected = np.empty((3, 9, 14))
    for i in range(3):
        for y in range(9):
            for x in range(14):
                of = i if masks[i, y, x] else (i - away) % 3
                expected[i, y, x] = (of * 9 + y) * 14 + x
    hybrids = hybrid_images(images, (9, 14), np.random.default_rng(23))
    np.testing.assert_array_equal(hybrids.reshape(3, 9, 14).numpy(), expected)


def test_masks_are_half_and_half_in_large_patches() -> None:
    masks = random_masks(400, (28, 28), np.random.default_rng(1))
    assert masks.shape == (400, 28, 28)
    assert abs(masks.float().mean() - 0.5) < 0.03
    same = (masks[:, :, 1:] == masks[:, :, :-1]).float().mean()
    assert 0.85 < same < 0.97, "neighbours mostly agree; bits that are not blurred would agree half the time"
    assert not torch.equal(masks[0], masks[1])


def test_colours_of_a_pixel_stay_together() -> None:
    images = torch.stack([torch.zeros(48), torch.ones(48)])
    mixed = hybrid_images(images, (4, 4, 3), np.random.default_rng(0)).reshape(2, 16, 3)
    assert (mixed.amin(2) == mixed.amax(2)).all()

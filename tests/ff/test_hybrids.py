"""Masks of large patches, and hybrids that take every pixel from one of two images."""

from __future__ import annotations

import numpy as np
import torch

from ffpipe.ff.hybrids import BLURS, blur_matrix, hybrid_images, random_masks


def test_the_blur_is_the_filter_of_the_paper_again_and_again() -> None:
    line = np.random.default_rng(0).random(12)
    expected = line.copy()
    for _ in range(BLURS):
        padded = np.concatenate([[0.0], expected, [0.0]])
        expected = padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4
    np.testing.assert_allclose(blur_matrix(12).numpy() @ line, expected, rtol=1e-5)


def test_masks_are_half_and_half_in_large_patches() -> None:
    masks = random_masks(400, (28, 28), np.random.default_rng(1))
    assert masks.shape == (400, 28, 28)
    assert abs(masks.float().mean() - 0.5) < 0.03
    same = (masks[:, :, 1:] == masks[:, :, :-1]).float().mean()
    assert 0.85 < same < 0.97, "neighbours mostly agree; bits that are not blurred would agree half the time"
    assert not torch.equal(masks[0], masks[1])


def test_every_pixel_comes_from_one_of_two_images_and_large_patches_do() -> None:
    images = torch.arange(5.0)[:, None].expand(5, 64).contiguous()  # image i is i everywhere
    mixed = hybrid_images(images, (8, 8), np.random.default_rng(3))
    partners = set()
    for i, row in enumerate(mixed):
        others = set(row.tolist()) - {float(i)}
        assert len(others) <= 1
        partners |= {(int(other) - i) % 5 for other in others}
    assert len(partners) == 1, "one partner for each, never itself"
    again = hybrid_images(images, (8, 8), np.random.default_rng(3))
    assert torch.equal(mixed, again)


def test_colours_of_a_pixel_stay_together() -> None:
    images = torch.stack([torch.zeros(48), torch.ones(48)])
    mixed = hybrid_images(images, (4, 4, 3), np.random.default_rng(0)).reshape(2, 16, 3)
    assert (mixed.amin(2) == mixed.amax(2)).all()

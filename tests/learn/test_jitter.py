"""Shifted images: by hand on a small one, and all shifts on many."""

from __future__ import annotations

import pytest
import torch

from ffpipe.learn.augmentation import jittered
from ffpipe.system.rng import generator


def test_a_shift_by_hand() -> None:
    image = torch.arange(1.0, 10.0).reshape(1, 9)
    found = set()
    for step in range(60):
        down, right = (generator(7, "jitter", step).integers(0, 3, size=(2, 1, 1)) - 1).flatten().tolist()
        expected = torch.zeros(3, 3)
        for y in range(3):
            for x in range(3):
                if 0 <= y + down < 3 and 0 <= x + right < 3:
                    expected[y, x] = image.reshape(3, 3)[y + down, x + right]
        assert torch.equal(jittered(image, (3, 3), 1, 7, step), expected.reshape(1, 9))
        found.add((down, right))
    assert len(found) == 9


def test_every_shift_is_as_likely_and_each_image_has_its_own() -> None:
    point = torch.zeros(2500, 5, 5)
    point[:, 2, 2] = 1.0
    moved = jittered(point.flatten(1), (5, 5), 2, 1, 0)
    counts = moved.sum(0)
    assert counts.sum() == 2500
    assert counts.min() > 60  # 100 expected at each of the 25 places


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(5, 3), (4, 6, 2)])
def test_images_of_any_kind_are_cut_out_of_a_margin_of_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    height, width = shape[:2]
    images = torch.randint(1, 200, (6, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    moved = jittered(images.flatten(1), shape, 2, 3, 1)
    shifts = generator(3, "jitter", 1).integers(0, 5, size=(2, 6, 1))[:, :, 0]
    for image, result, down, right in zip(images, moved, *shifts, strict=True):
        framed = torch.zeros(height + 4, width + 4, *shape[2:], dtype=dtype)
        framed[2:-2, 2:-2] = image
        assert torch.equal(result, framed[down : down + height, right : right + width].flatten())


def test_colours_move_together() -> None:
    image = torch.rand(3, 4, 4, 3)
    moved = jittered(image.flatten(1), (4, 4, 3), 1, 1, 0).reshape(3, 4, 4, 3)
    for colour in range(3):
        alone = jittered(image[..., colour].flatten(1), (4, 4), 1, 1, 0)
        assert torch.equal(moved[..., colour].flatten(1), alone)

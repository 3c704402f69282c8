"""Augmentation: every shift, mirror and hole of a small image by hand, and what holds for all images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ffpipe.learn.augmentation import Augmentation, jittered
from ffpipe.system.errors import UserError
from ffpipe.system.rng import generator

SEED, STEP, COUNT = 7, 3, 200

# The rest of the image 123 456 789 ...
SHIFTED = {  # ... (down, right) from where it was, in zeros
    (-1, -1): "000 012 045",
    (-1, 0): "000 123 456",
    (-1, 1): "000 230 560",
    (0, -1): "012 045 078",
    (0, 0): "123 456 789",
    (0, 1): "230 560 890",
    (1, -1): "045 078 000",
    (1, 0): "456 789 000",
    (1, 1): "560 890 000",
}
MIRRORED = {  # ... (down, right) from where it was, among its own reflections
    (-1, -1): "545 212 545",
    (-1, 0): "456 123 456",
    (-1, 1): "565 232 565",
    (0, -1): "212 545 878",
    (0, 0): "123 456 789",
    (0, 1): "232 565 898",
    (1, -1): "545 878 545",
    (1, 0): "456 789 456",
    (1, 1): "565 898 565",
}
HOLES_OF_2 = {  # ... with a hole of side 2 around (row, column)
    (0, 0): "023 456 789",
    (0, 1): "003 456 789",
    (0, 2): "100 456 789",
    (1, 0): "023 056 789",
    (1, 1): "003 006 789",
    (1, 2): "100 400 789",
    (2, 0): "123 056 089",
    (2, 1): "123 006 009",
    (2, 2): "123 400 700",
}
HOLES_OF_3 = {  # ... with a hole of side 3 around (row, column)
    (0, 0): "003 006 789",
    (0, 1): "000 000 789",
    (0, 2): "100 400 789",
    (1, 0): "003 006 009",
    (1, 1): "000 000 000",
    (1, 2): "100 400 700",
    (2, 0): "123 006 009",
    (2, 1): "123 000 000",
    (2, 2): "123 400 700",
}


def image(digits: str) -> Tensor:
    return torch.tensor([float(digit) for digit in digits.replace(" ", "")])


def coloured(plane: Tensor) -> Tensor:
    """Turn (..., pixels) into (..., pixels * 3), the channels 1, 10 and 100 times the plane."""
    return (plane.unsqueeze(-1) * torch.tensor([1.0, 10.0, 100.0])).flatten(-2)


def changed(augmentation: Augmentation, images: Tensor, shape: tuple[int, ...], seed: int, step: int) -> Tensor:
    """Return the images moved and then cut."""
    return augmentation.cut(augmentation.moved(images, shape, seed, step), shape, seed, step)


def copies() -> Tensor:
    return image("123 456 789").repeat(COUNT, 1)


@pytest.mark.parametrize(("padding", "table"), [("zero", SHIFTED), ("reflect", MIRRORED)])
def test_every_crop_by_hand(padding: Any, table: dict[tuple[int, int], str]) -> None:
    augmentation = Augmentation(crop=1, padding=padding)
    drawn = [(down, right) for down, right in generator(SEED, "crop", STEP).integers(-1, 2, size=(COUNT, 2)).tolist()]
    assert set(drawn) == set(table)
    expected = torch.stack([image(table[each]) for each in drawn])
    assert torch.equal(augmentation.moved(copies(), (3, 3), SEED, STEP), expected)
    assert torch.equal(augmentation.moved(coloured(copies()), (3, 3, 3), SEED, STEP), coloured(expected))


def test_the_farthest_mirror_turns_a_side_round() -> None:
    moved = Augmentation(crop=2, padding="reflect").moved(copies(), (3, 3), SEED, STEP)
    corners = (np.abs(generator(SEED, "crop", STEP).integers(-2, 3, size=(COUNT, 2))) == 2).all(axis=1)
    assert corners.sum() > 10
    assert torch.equal(moved[torch.from_numpy(corners)], image("987 654 321").repeat(int(corners.sum()), 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_half_of_the_images_are_flipped(channels: int) -> None:
    images = torch.arange(1.0, 6.0 * channels + 1).repeat(1000, 1)
    shape = (2, 3, channels)
    moved = Augmentation(flip=True).moved(images, shape, SEED, STEP)
    mirror = images[0].reshape(shape).flip(1).flatten()
    flipped, left = (moved == mirror).all(1), (moved == images[0]).all(1)
    assert (flipped ^ left).all()
    assert 430 < flipped.sum() < 570  # 4.4 deviations


@pytest.mark.parametrize(("side", "table"), [(2, HOLES_OF_2), (3, HOLES_OF_3)])
def test_every_hole_by_hand(side: int, table: dict[tuple[int, int], str]) -> None:
    augmentation = Augmentation(cutout=side)
    drawn = [(row, column) for row, column in generator(SEED, "cutout", STEP).integers(0, 3, size=(COUNT, 2)).tolist()]
    assert set(drawn) == set(table)
    expected = torch.stack([image(table[each]) for each in drawn])
    assert torch.equal(augmentation.cut(copies(), (3, 3), SEED, STEP), expected)
    assert torch.equal(augmentation.cut(coloured(copies()), (3, 3, 3), SEED, STEP), coloured(expected))


def test_holes_are_anywhere_in_an_oblong_image() -> None:
    cut = Augmentation(cutout=1).cut(torch.ones(3000, 15), (3, 5), SEED, STEP)
    assert (cut.sum(1) == 14).all()
    assert ((1 - cut).sum(0) > 140).all()  # 200 expected at each of the 15 places


KINDS = [
    Augmentation(jitter=1),
    Augmentation(crop=2),
    Augmentation(crop=2, padding="reflect"),
    Augmentation(flip=True),
    Augmentation(cutout=3),
]


@pytest.mark.parametrize("augmentation", KINDS, ids=str)
def test_a_function_of_seed_and_step_alone(augmentation: Augmentation) -> None:
    images, shape = torch.rand(30, 64, generator=torch.Generator().manual_seed(1)), (8, 8)
    before, state = images.clone(), torch.get_rng_state()
    first = changed(augmentation, images, shape, 1, 5)
    assert torch.equal(changed(augmentation, images, shape, 1, 5), first)
    assert not torch.equal(changed(augmentation, images, shape, 1, 6), first)
    assert not torch.equal(changed(augmentation, images, shape, 2, 5), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


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


def test_jitter_is_that_of_jittered() -> None:
    moved = Augmentation(jitter=1).moved(copies(), (3, 3), SEED, STEP)
    assert torch.equal(moved, jittered(copies(), (3, 3), 1, SEED, STEP))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    augmentation = Augmentation(crop=1, flip=True, cutout=2, jitter=1)
    result = changed(augmentation, copies().to(dtype), (3, 3), SEED, STEP)
    assert result.dtype == dtype
    assert torch.equal(result.float(), changed(augmentation, copies(), (3, 3), SEED, STEP))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Augmentation, int, tuple[int, ...]]:
    """An augmentation, a number of images and a shape that it fits."""
    height, width = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    least = min(height, width)
    augmentation = Augmentation(
        crop=draw(st.integers(0, least - 1)),
        padding=draw(st.sampled_from(["zero", "reflect"])),
        flip=draw(st.booleans()),
        cutout=draw(st.integers(0, least)),
        jitter=draw(st.integers(0, least - 1)),
    )
    shape = (height, width, *draw(st.sampled_from([(), (1,), (3,)])))
    augmentation.check(shape)
    return augmentation, draw(st.integers(1, 5)), shape


def numbered(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return the images (count, features) whose values are 1, 2, 3 ..., so that each says where it is from."""
    features = int(np.prod(shape))
    return torch.arange(1.0, count * features + 1).reshape(count, features)


@given(cases(), st.integers(0, 1000))
def test_each_pixel_is_one_of_its_image_or_blank(case: tuple[Augmentation, int, tuple[int, ...]], step: int) -> None:
    augmentation, count, shape = case
    images, channels = numbered(count, shape), shape[2] if len(shape) == 3 else 1
    result = changed(augmentation, images, shape, SEED, step)
    assert result.shape == images.shape
    cropped = augmentation.crop and augmentation.padding == "zero"
    blank = bool(augmentation.jitter or cropped or augmentation.cutout)
    for before, after in zip(images.reshape(count, -1, channels), result.reshape(count, -1, channels), strict=True):
        allowed = before.tolist() + [[0.0] * channels] * blank
        assert all(pixel in allowed for pixel in after.tolist())


@given(cases(), st.integers(0, 1000))
def test_a_change_is_the_same_whatever_else_is_on(case: tuple[Augmentation, int, tuple[int, ...]], step: int) -> None:
    all_on, count, shape = case
    images = numbered(count, shape)
    alone = [
        Augmentation(jitter=all_on.jitter),
        Augmentation(crop=all_on.crop, padding=all_on.padding),
        Augmentation(flip=all_on.flip),
        Augmentation(cutout=all_on.cutout),
    ]
    expected = images
    for each in alone:
        expected = changed(each, expected, shape, SEED, step)
    assert torch.equal(changed(all_on, images, shape, SEED, step), expected)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"crop": 1}, (64,), r"training.augmentation.crop needs images of a height .* shape \(64,\): leave it out"),
        ({"flip": True}, (64,), "training.augmentation.flip needs images"),
        ({"cutout": 1}, (64,), "training.augmentation.cutout needs images"),
        ({"jitter": 1}, (64,), "training.jitter needs images"),
        ({"crop": 8, "padding": "reflect"}, (8, 9), "crop is 8, but an image has 8 x 9 pixels: give at most 7"),
        ({"crop": 8}, (9, 8, 3), "training.augmentation.crop is 8, but an image has 9 x 8 pixels: give at most 7"),
        ({"jitter": 8}, (8, 8), "training.jitter is 8, but an image has 8 x 8 pixels: give at most 7"),
        ({"cutout": 9}, (8, 9), "training.augmentation.cutout is 9, but an image has 8 x 9 pixels: give at most 8"),
    ],
)
def test_what_does_not_fit_the_images(fields: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augmentation(**fields).check(shape)


def test_the_largest_that_fits() -> None:
    Augmentation(crop=7, padding="reflect", flip=True, cutout=8, jitter=7).check((8, 9, 3))
    Augmentation().check((64,))

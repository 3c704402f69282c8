"""Labels over the first features, behind the last or as planes, checked on rows small enough to read."""

from __future__ import annotations

import pytest
import torch

from ffpipe import override, recipe
from ffpipe.learn.labels import LabelCode
from ffpipe.pipeline.job import make_job

IMAGES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])


@pytest.mark.parametrize(
    ("code", "rows"),
    [
        (LabelCode("overlay", 4, 2, strength=3.0), [[0, 3, 0.3, 0.4], [3, 0, 0.7, 0.8]]),
        (LabelCode("append", 4, 2, strength=1.0), [[0.1, 0.2, 0.3, 0.4, 0, 1], [0.5, 0.6, 0.7, 0.8, 1, 0]]),
        (LabelCode("none", 4, 2, strength=1.0), [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]),
    ],
)
def test_rows_with_their_labels(code: LabelCode, rows: list[list[float]]) -> None:
    out = torch.empty(2, code.width)
    code.write(out, IMAGES, torch.tensor([1, 0]))
    assert torch.equal(out, torch.tensor(rows))


def test_planes_follow_the_last_pixel_one_for_each_class() -> None:
    code = LabelCode("planes", 4, 3, strength=2.0, shape=(2, 2))
    assert code.width == 16
    out = torch.empty(2, code.width)
    code.write(out, IMAGES, torch.tensor([1, 2]))
    planes = [[0.0] * 4 + [2.0] * 4 + [0.0] * 4, [0.0] * 8 + [2.0] * 4]
    assert torch.equal(out, torch.cat([IMAGES, torch.tensor(planes)], 1))
    assert torch.equal(code.neutral(IMAGES)[:, 4:], torch.full((2, 12), 2.0 / 3))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5])
def test_planes_are_channels_of_images_whatever_the_dims_of_another_network(blocks: int) -> None:
    conv = {"kind": "conv", "options": {"channels": 4}}
    fields = {"training.blocks": [conv] * blocks, "training.labels": "planes", "training.negatives": "random"}
    readouts = {"training.head_from": 0, "training.goodness_from": 0, "execution.stages": 1}
    assert make_job(override(recipe("digits"), fields | readouts)).layers == blocks


def test_planes_of_a_coloured_image_have_its_pixels() -> None:
    code = LabelCode("planes", 12, 2, strength=1.0, shape=(2, 2, 3))
    assert code.width == 12 + 2 * 4
    every = code.every_label(torch.zeros(1, 12))[:, 12:].view(2, 2, 2, 2)
    assert every.amin((2, 3)).tolist() == every.amax((2, 3)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_neutral_label_is_spread_over_all_classes() -> None:
    code = LabelCode("overlay", 4, 2, strength=1.0)
    assert code.neutral(IMAGES)[:, :2].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert torch.equal(LabelCode("none", 4, 2, strength=1.0).neutral(IMAGES), IMAGES)


def test_every_label_of_one_image_stands_side_by_side() -> None:
    code = LabelCode("append", 4, 3, strength=1.0)
    rows = code.every_label(IMAGES)
    assert rows.shape == (6, 7)
    assert rows[:, 4:].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(rows[:3, :4], IMAGES[:1].expand(3, 4))

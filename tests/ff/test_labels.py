"""Labels over the first features or behind the last, checked on rows small enough to read."""

from __future__ import annotations

import torch

from ffpipe.learn.labels import LabelCode

IMAGES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])


def test_overlay_replaces_the_first_features() -> None:
    code = LabelCode("overlay", 4, 2, strength=3.0)
    out = torch.empty(2, code.width)
    code.write(out, IMAGES, torch.tensor([1, 0]))
    assert out.tolist() == torch.tensor([[0, 3, 0.3, 0.4], [3, 0, 0.7, 0.8]]).tolist()


def test_append_follows_the_last_feature() -> None:
    code = LabelCode("append", 4, 2, strength=1.0)
    out = torch.empty(2, code.width)
    code.write(out, IMAGES, torch.tensor([1, 0]))
    assert out.tolist() == torch.cat([IMAGES, torch.tensor([[0.0, 1], [1, 0]])], 1).tolist()


def test_the_neutral_label_is_spread_over_all_classes() -> None:
    code = LabelCode("overlay", 4, 2, strength=1.0)
    assert code.neutral(IMAGES)[:, :2].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_every_label_of_one_image_stands_side_by_side() -> None:
    code = LabelCode("append", 4, 3, strength=1.0)
    rows = code.every_label(IMAGES)
    assert rows.shape == (6, 7)
    assert rows[:, 4:].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(rows[:3, :4], IMAGES[:1].expand(3, 4))

from __future__ import annotations

import numpy as np
import pytest

from ffpipe.data import source
from ffpipe.system.errors import UserError


@pytest.mark.parametrize("shape", [(1,), (28, 28), (32, 32, 3), (4096, 4096)])
def test_shapes_that_an_image_can_have(shape: tuple[int, ...]) -> None:
    assert source.check_shape(shape, "file") == shape


@pytest.mark.parametrize("shape", [(), (0,), (28, 0), (4097, 4096)])
def test_shapes_that_none_can_have(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="file: an image of shape"):
        source.check_shape(shape, "file")


def test_images_come_in_blocks() -> None:
    images = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    blocks = list(source.in_blocks(images, 25))
    assert [block.shape for block in blocks] == [(2, 12), (2, 12), (1, 12)]
    np.testing.assert_array_equal(np.concatenate(blocks), images.reshape(5, 12))


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [5, 0, 2], [0, 6, 1]])
def test_blocks_are_cut_anew(sizes: list[int]) -> None:
    rows = np.arange(14).reshape(7, 2)
    given = np.split(rows, np.cumsum(sizes)[:-1])
    assert [block.tolist() for block in source.cut_anew(given, 3)] == [
        rows[:3].tolist(),
        rows[3:6].tolist(),
        rows[6:].tolist(),
    ]
    assert list(source.cut_anew([], 3)) == []

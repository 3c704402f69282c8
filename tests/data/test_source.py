from __future__ import annotations

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

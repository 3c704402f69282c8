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


@pytest.mark.parametrize(("labels", "row"), [([0, 3, 1], 1), ([0, 1, -1], 2)])
def test_labels_outside_the_classes_are_named_by_row(labels: list[int], row: int) -> None:
    with pytest.raises(UserError, match=f"file: the label {labels[row]} at row {row} is not in 0..2; .* 3 classes"):
        source.check_labels(np.array(labels), 3, "file")


def test_derived_classes() -> None:
    assert source.derived_classes(np.array([0, 4, 2]), "file") == 5
    with pytest.raises(UserError, match=r"the label 9000000 at row 1 .*training\.data\.classes"):
        source.derived_classes(np.array([0, 9_000_000]), "file")

"""What does not need a cluster to be shown: addresses are looked at first."""

from __future__ import annotations

import pytest

from ffpipe.errors import UserError
from ffpipe.pipeline.cluster import Cluster


@pytest.mark.parametrize(
    ("address", "says"), [("ray://127.0.0.1:10001", "HOST:PORT"), ("127.0.0.1:1", "refused"), ("nonsense", "nonsense")]
)
def test_an_address_that_cannot_be_joined(address: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Cluster._join(address)

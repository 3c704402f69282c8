"""What does not need a cluster to be shown: addresses are looked at first."""

from __future__ import annotations

from unittest import mock

import pytest
import ray

from ffpipe.engines.ray.cluster import RAY_PRINTS, Cluster
from ffpipe.system.errors import UserError


@pytest.mark.parametrize(
    ("address", "says"), [("ray://127.0.0.1:10001", "HOST:PORT"), ("127.0.0.1:1", "refused"), ("nonsense", "nonsense")]
)
def test_an_address_that_cannot_be_joined(address: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Cluster._join(address)


def test_the_next_ray_of_a_program_prints_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(Cluster, "_start", lambda *_: None)
    monkeypatch.setattr(ray, "get_runtime_context", mock.Mock)
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", RAY_PRINTS)
    cluster = Cluster()
    assert ray._private.worker.print_to_stdstream is not RAY_PRINTS
    cluster.close()
    assert ray._private.worker.print_to_stdstream is RAY_PRINTS

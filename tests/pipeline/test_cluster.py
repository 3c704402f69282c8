"""Clusters, as far as none is needed: addresses are looked at first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from ffpipe.engines.ray.cluster import RAY_PRINTS, Cluster
from ffpipe.system.errors import RunFailed, UserError


@pytest.mark.parametrize(
    ("address", "says"), [("ray://127.0.0.1:10001", "HOST:PORT"), ("127.0.0.1:1", "refused"), ("nonsense", "nonsense")]
)
def test_an_address_that_cannot_be_joined(address: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Cluster._join(address, lambda: None)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder:
        yield Path(folder)


def test_ray_that_does_not_start_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen\nwhere it does")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RunFailed, match="Ray could not be started: The current node timed out during startup"):
        Cluster()
    assert list(short.iterdir()) == []


def test_the_next_ray_of_a_program_prints_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", RAY_PRINTS)

    class Unstarted(Cluster):
        def _start(self, object_store_bytes: int, meanwhile: Callable[[], object]) -> None:
            """Start nothing."""

    cluster = Unstarted()
    assert ray._private.worker.print_to_stdstream is not RAY_PRINTS
    cluster.close()
    assert ray._private.worker.print_to_stdstream is RAY_PRINTS

"""Clusters, as far as none is needed: addresses are looked at first."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ffpipe.engines.ray.cluster import RAY_PRINTS, Cluster, in_groups_of_their_own
from ffpipe.engines.ray.engine import gathered
from ffpipe.engines.ray.settings import folder_of_clusters
from ffpipe.system.errors import ClusterLost, RunFailed, UserError
from ffpipe.telemetry.report import Answer, StageReport


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://127.0.0.1:10001", "HOST:PORT"),
        ("127.0.0.1:1", "refused"),
        ("nonsense", "nonsense"),
        ("local", "asks for no token: unset it"),
    ],
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


@pytest.mark.parametrize(("given", "used"), [("/tmp/abc", "/tmp/abc"), ("/tmp/" + "é" * 7, "/tmp")])
def test_a_folder_is_short_in_bytes(given: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: given)
    assert folder_of_clusters() == Path(used)


def test_a_head_node_that_is_gone_is_waited_for_once() -> None:
    """The first stage has answered, the second is silent, the third one's answer is there, the fourth is dead."""
    report = StageReport(0, (0,))
    waited: list[float] = []

    def get(calls: list[Any], deadline: float) -> list[Answer]:
        waited.append(max(0.0, deadline - time.monotonic()))
        if calls == [1]:
            raise ClusterLost("the head node has not answered for 30 s")
        if calls == [3]:
            raise ray.exceptions.ActorDiedError
        return [Answer([report])]

    assert gathered(range(4), get, time.monotonic() + 60) == [report, report]
    assert [seconds > 1 for seconds in waited] == [True, True, False, False]


def test_processes_of_ray_are_in_groups_of_their_own() -> None:
    """As Ray starts them, by a function that it calls in the new process."""

    def tied() -> None:
        ray._private.utils.set_kill_on_parent_death_linux()

    def leads_a_group() -> bool:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, preexec_fn=tied) as child:
            return os.getpgid(child.pid) == child.pid

    with in_groups_of_their_own():
        assert leads_a_group()
    assert not leads_a_group()

"""Obstacles to Ray are found before it is started or joined."""

from __future__ import annotations

import resource
import socket
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray

from ffpipe.engines.ray.surroundings import LEAST_OPEN_FILES, check_door, check_host, find_node, shared_memory
from ffpipe.system.errors import UserError


@pytest.mark.parametrize(
    ("most", "enough"), [(40, False), (LEAST_OPEN_FILES, True), (resource.RLIM_INFINITY, True)], ids=str
)
def test_open_files(most: int, enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, most))
    if enough:
        check_host()
        return
    with pytest.raises(UserError, match=rf"40 open files here, and Ray needs {LEAST_OPEN_FILES}: .*--engine local"):
        check_host()


def test_a_loopback_interface_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> socket.socket:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(
        UserError, match=r"loopback interface, which carries nothing \(Network is unreachable\): .*local"
    ):
        check_host()


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared_memory(tmp_path) > 0
    assert shared_memory(tmp_path / "missing") == 0
    monkeypatch.setattr("os.access", lambda *_: False)  # as on a disk that is mounted read-only
    assert shared_memory(tmp_path) == 0
    monkeypatch.setattr("sys.platform", "darwin")
    assert shared_memory(tmp_path) > 1 << 60


@pytest.mark.parametrize(
    ("mode", "refusal", "node", "says"),
    [
        ("", "InvalidAuthToken: missing or incorrect", True, "wants a token: set RAY_AUTH_MODE=token"),
        ("token", "InvalidAuthToken: missing or incorrect", True, "wants another token"),
        ("token", "WrongClusterID", True, None),
        ("", None, True, None),
        ("token", "WrongClusterID", False, "no node among the processes of this host.*ray start --address=127.0.0.1:"),
    ],
)
def test_a_cluster_that_wants_a_token_or_a_node_here(
    mode: str, refusal: str | None, node: bool, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_: str) -> None:
        if refusal:
            raise ray.exceptions.AuthenticationError(refusal)

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=lambda: server.accept()[0].close())
        answering.start()
        with pytest.raises(UserError, match=says) if says else nullcontext():
            check_door(f"127.0.0.1:{server.getsockname()[1]}", ask, lambda _: node)
        answering.join()


@pytest.mark.usefixtures("cluster")
def test_the_node_of_a_cluster_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray finds it among the processes, and there may be those of another cluster."""
    address = ray.get_runtime_context().gcs_address
    assert find_node(address)
    for others in (set[str](), {"1" * 56}):
        monkeypatch.setattr(ray._private.services, "find_node_ids", lambda others=others: others)
        assert not find_node(address, seconds=0.5)
    monkeypatch.delattr(ray._private.services, "get_node_to_connect_for_driver")
    assert find_node(address)


@pytest.mark.usefixtures("cluster")
def test_the_word_auto_stands_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose cluster wants its token as well."""
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setattr(ray._private.utils, "read_ray_address", lambda _: address)
    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", set)
    asked: list[str] = []
    check_door("auto", asked.append, lambda _: True)
    assert asked == [address]

"""Hosts for the tests of this folder, or the reason why there are none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host
from hosts_or_skip import hosts_or_skip
from rayhosts import RayHosts


def make_short_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ffh-", dir="/tmp", ignore_cleanup_errors=True)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for the sockets of Ray in it."""
    with make_short_folder() as folder:
        yield Path(folder)


@pytest.fixture
def hosts(short_folder: Path) -> Iterator[list[Host]]:
    """Three hosts with nothing on them."""
    with hosts_or_skip(short_folder) as hosts:
        yield hosts


@pytest.fixture
def ray_hosts(hosts: list[Host], short_folder: Path) -> RayHosts:
    """Three hosts with Ray, to be broken."""
    return RayHosts(hosts, short_folder)


@pytest.fixture(scope="module")
def whole_ray_hosts(_cache: None) -> Iterator[RayHosts]:
    """Three hosts with Ray, which no test leaves broken."""
    with make_short_folder() as folder, hosts_or_skip(Path(folder)) as hosts:
        yield RayHosts(hosts, Path(folder))

"""Hosts for a test, or a skip that says why there are none here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hosts import Host, NotAllowed, make_hosts


@contextmanager
def hosts_or_skip(folder: Path, count: int = 3) -> Iterator[list[Host]]:
    """Yield what make_hosts does, or skip the test."""
    with ExitStack() as stack:
        try:
            hosts = stack.enter_context(make_hosts(count, folder))
        except NotAllowed as error:
            pytest.skip(f"no hosts: {error}")
        yield hosts

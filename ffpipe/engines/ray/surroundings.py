"""Needs of Ray on the host that it is started on, and of a cluster on those who join it: seen to at once, in one line.

Ray itself tries for a minute and then raises whatever came last.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled

from ffpipe.engines.ray.calls import within
from ffpipe.engines.ray.headwatch import probe
from ffpipe.system.errors import UserError, reason

SHARED_MEMORY = Path("/dev/shm")
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 10.0
# File descriptors of one process of Ray's; two stages did with half as many.
LEAST_OPEN_FILES = 256
# A token of no cluster, but of the right form: with it a client asks nothing before it does what it is told.
SOME_CLUSTER = "1" * 56
# Ray's words where no process of this host is a node of the cluster.
NO_NODE = "No node info found"


def shared_memory(folder: Path = SHARED_MEMORY) -> int:
    """Return the bytes free in /dev/shm, where object stores are kept: 0 if nothing can be written there; no limit on
    systems that have no such folder, as macOS."""
    if sys.platform != "linux":
        return sys.maxsize
    return shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0


def check_host() -> None:
    """Raise UserError where Ray could not be started here."""
    # The hard limit: Ray raises the soft one by itself.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        raise UserError(
            f"a process may have {most} open files here, and Ray needs {LEAST_OPEN_FILES}: raise the limit "
            f"(ulimit -Hn {LEAST_OPEN_FILES}), or give --engine local"
        )
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"Ray needs the loopback interface, which carries nothing ({reason(error)}): bring it up "
            "(ip link set lo up), or give --engine local"
        ) from None


def _ask(address: str) -> None:
    """Ask the head node for anything; what it answers does not matter, but for a refusal."""
    try:
        client: Any = ray._raylet.GcsClient(  # type: ignore[attr-defined]  # no hint
            address=address, cluster_id=SOME_CLUSTER
        )
        client.check_alive([], timeout=CONNECT_SECONDS)
    except ray.exceptions.AuthenticationError:
        raise
    except Exception:  # it is Ray's turn to say what is wrong
        return


def find_node(address: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Return whether Ray finds a node of the cluster among the processes of this host, by which a driver joins.
    seconds: to look for one that is just starting; Ray itself takes a minute."""
    # A version that has none joins in a way of its own.
    find: Any = getattr(services, "get_node_to_connect_for_driver", None)
    try:
        if find is not None:
            client: Any = ray._raylet.GcsClient(address=address)  # type: ignore[attr-defined]  # no hint
            find(client, timeout_seconds=seconds)
    except Exception as error:  # it is Ray's turn to say what else is wrong
        return NO_NODE not in str(error)
    return True


def check_door(
    address: str, ask: Callable[[str], None] = _ask, has_node_here: Callable[[str], bool] = find_node
) -> None:
    """Find out at once what Ray would take minutes for: nobody listens there, a token is wanted, or this host has no
    node of the cluster. ask: asks for anything, and raises what Ray raises of a token. Raises OSError, ValueError and
    UserError. An address without a port is left to Ray."""
    if "://" in address:
        raise ValueError("give HOST:PORT; a Ray Client address does not let stages talk to each other")
    if address == "local":
        raise UserError(
            "RAY_ADDRESS is 'local', with which Ray would start a cluster that asks for no token: unset it to have one "
            "started here that does"
        )
    if address == "auto":
        address = services.canonicalize_bootstrap_address(address) or ""
    _, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        return
    probe(address, CONNECT_SECONDS)
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)  # without one Ray aborts
        within(CONNECT_SECONDS, "for a sign of life", lambda: ask(address))
    except ray.exceptions.AuthenticationError as error:
        if "WrongClusterID" not in str(error):  # with which the token was right
            token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
            raise UserError(
                f"the Ray cluster at {address} wants {'another' if token else 'a'} token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH where the token is not in ~/.ray/auth_token"
            ) from None
    if not within(2 * CONNECT_SECONDS, "for a node of this host", lambda: has_node_here(address)):
        raise UserError(
            f"the Ray cluster at {address} has no node among the processes of this host, or container: start one "
            f"(ray start --address={address}), or run ffpipe where there is one (cluster/submit.sh, ray job submit)"
        )

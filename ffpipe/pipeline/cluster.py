"""The Ray cluster: joined at RAY_ADDRESS where that is set, else one of our own on loopback, taken down after.

Our own cluster listens on 127.0.0.1 alone, asks for a token on every call, has no dashboard, reports no
usage (ray_settings.py), and keeps its files in a temporary folder that is removed with it.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path

import ray
from ray._private.services import canonicalize_bootstrap_address

from ffpipe.errors import RunFailed, UserError

CONNECT_SECONDS = 10.0
# What follows it is "/ffpipe-PPPPPPP-XXXXXXXX/session_YYYY-MM-DD_HH-MM-SS_XXXXXX_PPPPPPP/sockets/plasma_store".
LONGEST_FOLDER = 20


class Cluster:
    """A connection to Ray, made on construction.

    Raises UserError where RAY_ADDRESS does not answer, RunFailed where Ray does not start.
    """

    def __init__(self) -> None:
        self._owned = False
        self._folder: str | None = None
        if not ray.is_initialized():
            self._attach()

    def _attach(self) -> None:
        address = os.environ.get("RAY_ADDRESS")
        self._owned = True
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if address:
            self._join(address)
        else:
            self._start()
        # Ray puts its own handler in place of the program's, one that exits without taking anything down.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)

    def resources(self) -> dict[str, float]:
        """What the whole cluster has, by name (CPU, GPU, custom ones)."""
        return dict(ray.cluster_resources())

    def available(self) -> dict[str, float]:
        """What nobody uses at the moment."""
        return dict(ray.available_resources())

    def attached(self) -> bool:
        """Whether the node that this process is attached to is alive, as far as Ray has noticed."""
        here = ray.get_runtime_context().get_node_id()
        return any(node["NodeID"] == here and node["Alive"] for node in ray.nodes())

    def attach_again(self) -> None:
        """Join by another node of the cluster, or start one anew, after that node has died. Raises RunFailed."""
        if not self._owned:
            raise RunFailed("the Ray node that this program is attached to has died")
        self.close()
        try:
            self._attach()
        except UserError as error:
            raise RunFailed(str(error)) from error

    def close(self) -> None:
        """Leave the cluster; take it down and remove its files if it is our own."""
        if self._owned:
            ray.shutdown()
            self._owned = False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @staticmethod
    def _join(address: str) -> None:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"RAY_ADDRESS is {address!r}, but no Ray cluster can be joined there ({_first_line(error)}): "
                "start one there, or unset RAY_ADDRESS to have one started here"
            ) from None

    def _start(self) -> None:
        folder = Path(_short_folder())
        sweep(folder)
        self._folder = tempfile.mkdtemp(prefix=f"ffpipe-{os.getpid()}-", dir=folder)
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=self._folder,
            )
        except BaseException as error:
            self.close()
            if isinstance(error, (RuntimeError, ConnectionError, TimeoutError)):
                raise RunFailed(f"Ray could not be started: {_first_line(error)}") from error
            raise


def _knock(address: str) -> None:
    """Raise at once what Ray would take minutes to find: nobody listens there."""
    if address == "auto":
        address = canonicalize_bootstrap_address(address) or ""
        if not address:
            raise ValueError("no cluster is running on this host")
    host, colon, port = address.rpartition(":")
    if "://" in address:
        raise ValueError("give HOST:PORT; a Ray Client address does not let stages talk to each other")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def sweep(folder: Path) -> None:
    """Remove what clusters of ours left in a folder for temporary files whose process was killed."""
    for left in folder.glob("ffpipe-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _short_folder() -> str:
    """Where temporary files go, unless that is too long for the path of a Unix socket in it (107 bytes)."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

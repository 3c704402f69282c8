"""The Ray cluster: joined at RAY_ADDRESS where that is set, else one of our own on loopback, taken down after.

Our own cluster listens on 127.0.0.1 alone, asks for a token on every call, has no dashboard, reports no
usage (ray_settings.py), and keeps its files in a temporary folder that is removed with it.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private.utils import estimate_available_memory, resolve_object_store_memory
from ray.job_config import JobConfig

from ffpipe.config.limits import LEAST_OBJECT_STORE
from ffpipe.engines.ray.calls import caller, within
from ffpipe.engines.ray.headwatch import PATIENCE, HeadWatch
from ffpipe.engines.ray.placement import Host
from ffpipe.engines.ray.settings import PREFIX, folder_of_clusters
from ffpipe.engines.ray.surroundings import check_door, check_host, shared_memory
from ffpipe.system.errors import ClusterLost, RunFailed, UserError, reason
from ffpipe.system.leftovers import own_folder, remove_with_writers, sweep
from ffpipe.system.processes import end_writers

# Ray itself gives up starting sooner, and leaving takes it a second or two.
SECONDS_TO_START, SECONDS_TO_JOIN, SECONDS_TO_LEAVE, SECONDS_WITHOUT_HEAD = 90.0, 60.0, 10.0, 2.0
# Ray opens its own folder to every user; ours around it is for this one alone.
FOLDER_OF_RAY = "r"
RAY_PRINTS = ray._private.worker.print_to_stdstream
TIES_TO_PARENT = "set_kill_on_parent_death_linux"


class Cluster:
    """A connection to Ray, made on construction. Raises UserError where RAY_ADDRESS cannot be joined or there is no
    room for the object store that was asked for, RunFailed where Ray does not start."""

    def __init__(self, object_store_bytes: int = 0) -> None:
        """object_store_bytes: of a cluster of our own; 0: as Ray chooses."""
        self._asked_bytes = object_store_bytes
        # Asked for once, before a store of our own takes its part of it.
        self._shared = shared_memory()
        self._on_disk = self._owned = self._attached = False
        self._folder: str | None = None
        # A program that has joined a cluster itself also leaves it itself.
        if ray.is_initialized():
            self.head = HeadWatch(ray.get_runtime_context().gcs_address)
        else:
            self._attach()

    def _attach(self) -> None:
        address = os.environ.get("RAY_ADDRESS")
        self._owned = True
        on_sigterm = signal.getsignal(signal.SIGTERM)

        def take_back() -> None:
            # Ray puts a handler of its own in place of the program's, in C++, which ends the program.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)

        try:
            if address:
                self._join(address, take_back)
            else:
                chosen = int(resolve_object_store_memory(estimate_available_memory()))
                self._start(own_store_bytes(self._asked_bytes, chosen, self._shared), take_back)
        finally:
            take_back()
        # Whatever log_to_driver says, Ray writes a thousand characters on every stage that dies to the program's
        # output, in the middle of a live table; the run says it in one line.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        self.head = HeadWatch(ray.get_runtime_context().gcs_address, self.own)
        self._attached = True

    @property
    def own(self) -> bool:
        """True where it is a cluster of our own, which is on this host alone."""
        return self._folder is not None

    def hosts(self) -> list[Host]:
        """Return the nodes that are alive, as far as Ray has noticed."""
        return [Host(n["NodeManagerAddress"], n["Resources"], n.get("Labels") or {}) for n in alive_nodes()]

    def address(self, node: str) -> str:
        """Return the address of the host of a node, by its id."""
        return next((str(n["NodeManagerAddress"]) for n in nodes() if n["NodeID"] == node), node)

    def stores(self) -> dict[str, int]:
        """Return the bytes of the object store of each node, by its id."""
        return {node["NodeID"]: int(node["Resources"].get("object_store_memory", 0)) for node in alive_nodes()}

    def larger_store(self, size: int) -> str:
        """Say how to get an object store of so many bytes, for messages."""
        if self._folder is None:
            return f"a cluster whose nodes have one of that size (ray start --object-store-memory {size})"
        docker = f", after giving /dev/shm more (docker run {_shm_size(size)})" if self._shared < size else ""
        return f"--execution.object-store-bytes {size}{docker}"

    def notes(self, size: int) -> tuple[str, ...]:
        """List what a person should know before a run that needs an object store of so many bytes."""
        if not self._on_disk:
            return ()
        if not self._shared:
            return ("warning: /dev/shm cannot be written to: Ray's object store is on disk and slower now",)
        return (
            f"warning: /dev/shm has {self._shared / 1e6:.0f} MB free, too little for Ray's object store, which is "
            f"on disk and slower now: give it more (docker run {_shm_size(max(size, LEAST_OBJECT_STORE))})",
        )

    def attached(self) -> bool:
        """Return whether the node that this process is attached to is alive, as far as Ray has noticed."""
        here = ray.get_runtime_context().get_node_id()
        return any(node["NodeID"] == here for node in alive_nodes())

    def attach_again(self) -> None:
        """Join by another node of the cluster, or start one anew, after that node has died. Raises RunFailed."""
        if not self._owned:
            raise RunFailed("the Ray node that this program is attached to has died")
        self.close()
        try:
            self._attach()
        except UserError as error:  # the request was right when the run began
            raise RunFailed(str(error)) from error

    def close(self) -> None:
        """Leave the cluster; take it down and remove its files if it is our own. Returns soon, whatever Ray does."""
        if self._owned:
            self._leave()
            ray._private.worker.print_to_stdstream = RAY_PRINTS
            self._owned = self._attached = False
        if self._folder is not None:
            remove_with_writers(Path(self._folder))
            self._folder = None

    def _leave(self) -> None:
        """Have Ray shut down, if it does in time; what is left of a cluster of our own is ended in any case."""
        try:
            within(self.patience(), "to shut down", ray.shutdown)
        except ClusterLost:
            # It may have waited for them, or behind a call that did, and never have begun.
            self._end_processes()
            # In a cluster that was joined nothing has ended, so there is nothing more to wait for.
            try:
                within(SECONDS_TO_LEAVE if self.own else 0.0, "to shut down", ray.shutdown)
            except ClusterLost:
                caller.leave_behind()
        self._end_processes()

    def _end_processes(self) -> None:
        """Kill what works in the folder of a cluster of our own."""
        if self._folder is not None:
            end_writers(Path(self._folder))

    def patience(self) -> float:
        """Return the seconds that Ray has for taking something down, for which it needs the head node."""
        return SECONDS_WITHOUT_HEAD if self._attached and self.head.silent() else SECONDS_TO_LEAVE

    @staticmethod
    def _join(address: str, meanwhile: Callable[[], object]) -> None:
        try:
            check_door(address)
            init = partial(ray.init, address, log_to_driver=False, logging_level=logging.ERROR, job_config=safe_job())
            within(SECONDS_TO_JOIN, "to be joined", init, meanwhile)
        except UserError:
            raise
        except Exception as error:  # Ray raises bare ones too
            raise UserError(
                f"RAY_ADDRESS is {address!r}, but no Ray cluster can be joined there ({reason(error)}): "
                "start one there, or unset RAY_ADDRESS to have one started here"
            ) from None

    def _start(self, object_store_bytes: int, meanwhile: Callable[[], object]) -> None:
        folder = folder_of_clusters()
        self._on_disk = object_store_bytes > self._shared
        check_host()
        # Processes that a killed run left may be at work still, and would take memory and processors from this one.
        sweep(folder, PREFIX)
        self._folder = str(own_folder(folder, PREFIX))
        try:
            init = partial(
                ray.init,
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=safe_job(),
                _node_ip_address="127.0.0.1",
                object_store_memory=object_store_bytes,
                _plasma_directory=self._folder if self._on_disk else None,
                _temp_dir=f"{self._folder}/{FOLDER_OF_RAY}",
            )
            with in_groups_of_their_own():
                within(SECONDS_TO_START, "to start", init, meanwhile)
            # To empty what was spilled there, Ray would make its folder anew when it shuts down, be it after a minute's
            # wait for a head node that is gone; ours is removed whole.
            ray._private.worker._global_node.destroy_external_storage = lambda: None  # type: ignore[attr-defined]  # None before
        except BaseException as error:
            self._end_processes()  # for which a start that goes on waits in vain
            self.close()
            if isinstance(error, Exception):  # Ray raises bare ones too
                instead = "try again when this machine has less to do, or give --engine local"
                raise RunFailed(f"Ray could not be started: {reason(error)}: {instead}") from error
            raise


@contextmanager
def in_groups_of_their_own() -> Iterator[None]:
    """Have processes that Ray starts meanwhile each begin a process group.

    A terminal that is closed, a key in it and `timeout` signal the whole group of a program: Ray would be gone before
    the run has saved. It ends with the thread that started it all the same.
    """
    utils: Any = ray._private.utils
    # The one function that Ray calls in the new process; a version that has none starts as it does.
    tied: Callable[[], None] | None = getattr(utils, TIES_TO_PARENT, None)
    if tied is None:
        yield
        return

    def tied_in_a_group() -> None:
        os.setpgrp()
        tied()

    setattr(utils, TIES_TO_PARENT, tied_in_a_group)
    try:
        yield
    finally:
        setattr(utils, TIES_TO_PARENT, tied)


def safe_job() -> JobConfig:
    """Return settings by which workers import nothing from the working folder, which may hold a stranger's files.

    Ray puts that folder first in their path, but not for a driver that says that it is elsewhere.
    """
    # If ffpipe is not installed and runs from its own source, that is where workers find it.
    source = Path(__file__).parents[3]
    return JobConfig(_client_job=True, _py_driver_sys_path=[str(source)] if source == Path.cwd() else [])


def nodes() -> list[dict[str, Any]]:
    """Return all nodes of the cluster, in Ray's words. Raises ClusterLost."""
    found: list[dict[str, Any]] = within(PATIENCE, "for its nodes", ray.nodes)
    return found


def alive_nodes() -> list[dict[str, Any]]:
    """Return those that are alive as far as Ray has noticed. Raises ClusterLost."""
    return [node for node in nodes() if node["Alive"]]


def own_store_bytes(asked: int, default: int, shared: int) -> int:
    """Return the size of the object store of a cluster of our own. Raises UserError where there is no room for what was
    asked."""
    if asked > shared:
        raise UserError(
            f"execution.object_store_bytes is {asked}, but /dev/shm has {shared} bytes free: give at most that, "
            f"or make /dev/shm larger (docker run {_shm_size(asked)})"
        )
    # Ray keeps a store on disk where /dev/shm has no room for the whole of it. Ours is made so large that it has,
    # unless there is no room for the least that Ray starts with. As in Ray, a little is left to others.
    fits = int(shared * 0.95)
    return asked or (min(default, fits) if fits >= LEAST_OBJECT_STORE else default)


def _shm_size(store: int) -> str:
    """Spell Docker's option for a /dev/shm with room for a store of so many bytes."""
    return f"--shm-size={math.ceil(store / 0.95 / 1e6) * 10**6}"

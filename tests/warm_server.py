"""The process that warm programs are forked from (warm.py).

    warm_server.py SOCKET PROGRAM

It imports what takes long, listens at SOCKET until its standard input ends, and forks a process for each request of
warm_client.py. PROGRAM is what sys.executable is in these.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import marshal
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
LARGEST = 1 << 20
WORKER_OF_RAY = "setup_worker.py"
# Shapes on the meta device, and optimisers of torch's own, import this.
NEEDED_BY_TORCH = ("torch._dynamo",)
NEEDED_BY_RAY = (
    "asyncio",
    "click",
    "filelock",
    "google.protobuf.text_format",
    "jsonschema",
    "msgpack",
    "requests",
    "yaml",
)


@dataclass(frozen=True)
class Request:
    """A program to run, as a shell would start it."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    ignored: list[int]
    group: int
    streams: list[int]


def load() -> None:
    """Import ffpipe with torch, and the needs of Ray, but not Ray itself, which reads its settings then."""
    sys.path[0] = str(REPOSITORY)
    import ffpipe

    for module in pkgutil.walk_packages(ffpipe.__path__, "ffpipe."):
        if not module.name.endswith("__main__") and not module.name.startswith("ffpipe.engines.ray."):
            import_module(module.name)
    for name in NEEDED_BY_TORCH + NEEDED_BY_RAY:
        import_module(name)
    assert "ray" not in sys.modules


def serve(listener: socket.socket) -> Request | None:
    """Fork a process for every request, and return that in it; return nothing at the end of the standard input."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: who asked for a program ends it
    clients: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector, woken, wake:
        for source in (listener, woken, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    for process in clients.values():
                        os.kill(process, signal.SIGKILL)
                    return None
                if key.fileobj is woken:
                    woken.recv(4096)
                    _tell_of_ends(clients, selector)
                elif key.fileobj is listener:
                    connection, _ = listener.accept()
                    request = _receive(connection)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # Python's, of threads: that of Arrow's allocator survives it
                        process = os.fork()
                    if not process:
                        for other in (connection, *clients):
                            other.close()
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        signal.signal(signal.SIGINT, signal.default_int_handler)
                        return request
                    for stream in request.streams:
                        os.close(stream)
                    clients[connection] = process
                    selector.register(connection, selectors.EVENT_READ)
                    connection.send(b"%d" % process)
                elif key.fileobj in clients:  # its client has been killed
                    os.kill(clients[key.fileobj], signal.SIGKILL)
                    selector.unregister(key.fileobj)


def _receive(connection: socket.socket) -> Request:
    data, streams, _, _ = socket.recv_fds(connection, LARGEST, 3)
    arguments, environment, folder, ignored, group = marshal.loads(data)
    return Request(arguments, environment, folder, ignored, group, streams)


def _tell_of_ends(clients: dict[socket.socket, int], selector: selectors.BaseSelector) -> None:
    """Send every client whose process has ended its status, or minus the signal that ended it."""
    for connection, process in list(clients.items()):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            del clients[connection]
            if connection in selector.get_map():
                selector.unregister(connection)
            with connection, suppress(OSError):  # killed as well
                connection.send(b"%d" % os.waitstatus_to_exitcode(status))


def become(request: Request, program: str) -> None:
    """Make this process one that was just started so."""
    try:
        os.setpgid(0, request.group)  # that of its client, for signals to both
    except PermissionError:
        os.setsid()  # it is one of another session
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    if (threads := os.environ.get("OMP_NUM_THREADS")) and threads != before:
        import torch

        torch.set_num_threads(int(threads))
    sys.executable = program
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = ["", *paths]


def run(arguments: list[str]) -> None:
    """Do what Python does with these arguments."""
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        arguments = arguments[1:]
    if Path(arguments[0]).name == WORKER_OF_RAY:
        arguments = _worker_of_ray(arguments[1:])
    kind, *rest = arguments
    if kind == "-c":
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        sys.argv = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(kind).resolve().parent)
        main = types.ModuleType("__main__")
        main.__file__ = kind
        sys.modules["__main__"] = main
        exec(compile(Path(kind).read_bytes(), kind, "exec"), main.__dict__)


def end(arguments: list[str]) -> NoReturn:
    """Do it and end this process as Python would, but for taking all modules down, which would copy their memory."""
    status = 0
    try:
        run(arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 255)


def _worker_of_ray(arguments: list[str]) -> list[str]:
    """Do what that script of Ray does before it starts an interpreter once more; return what that would be given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context")
    parser.add_argument("--language")
    given, rest = parser.parse_known_args(arguments)
    os.environ.update(json.loads(given.serialized_runtime_env_context or "{}").get("env_vars") or {})
    return rest


if __name__ == "__main__":
    load()
    gc.collect()
    gc.freeze()  # no collection in a forked process touches what it shares
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LARGEST)
        listener.bind(sys.argv[1])
        listener.listen(64)
        print("ready", flush=True)
        asked = serve(listener)
    if asked:
        become(asked, sys.argv[2])
        end(asked.arguments)

"""A Ray cluster over the hosts of hosts.py, one `ray start` in each, and runs of ffpipe on it."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import Host, wait_for

STORE_BYTES = 150_000_000
PORT = 6379
SECONDS_TO_START = 120.0
SECONDS_TO_TRAIN = 300.0


def token_environment() -> dict[str, str]:
    """Return the environment for every process of a cluster of its own: a token, no word of another cluster, and this
    Python's programs."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return mine | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


class RayHosts:
    """Joined hosts of one CPU each; the first is the head."""

    def __init__(self, hosts: Sequence[Host], folder: Path) -> None:
        """folder: for Ray's files; its path must be short, since sockets are there."""
        self.hosts = list(hosts)
        folder.mkdir(exist_ok=True)
        self.folder = folder
        head = hosts[0]
        self.address = f"{head.address}:{PORT}"
        # On a disk of its own, as hosts have that share nothing but a folder for runs.
        self._own = token_environment() | {"FFPIPE_CACHE": str(folder / "disk" / "cache")}
        self._start([head], ("--head", f"--port={PORT}", "--include-dashboard=false"))
        self._start(hosts[1:], (f"--address={self.address}",))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program that uses the cluster."""
        return {**self._own, "RAY_ADDRESS": self.address}

    def _start(self, hosts: Sequence[Host], how: tuple[str, ...]) -> None:
        log = self.folder / "start.log"
        with log.open("a") as file:
            started = []
            for host in hosts:
                named = (f"--node-ip-address={host.address}", f"--labels=host={host.name}")
                options = (*named, "--num-cpus=1", "--num-gpus=0")
                room = (f"--object-store-memory={STORE_BYTES}", f"--temp-dir={self.folder / host.name}")
                started.append(host.start("ray", "start", *how, *options, *room, env=self._own, log=file))
            statuses = [process.wait(SECONDS_TO_START) for process in started]
        assert not any(statuses), log.read_text()[-4000:]

    def stages(self) -> list[Host]:
        """Return the hosts with a stage."""
        return [host for host in self.hosts if host.is_up and host.processes("ray::StageActor")]

    @contextmanager
    def command(self, host: Host, *arguments: str) -> Iterator[Program]:
        """Run an `ffpipe` command on a host."""
        program = Program(host, arguments, self.environment, self.folder / "ffpipe.log")
        try:
            yield program
        finally:
            program.end()


class Program:
    """`ffpipe` with these arguments on a host."""

    def __init__(self, host: Host, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            command = (sys.executable, "-m", "ffpipe", *arguments)
            self._process = host.start(*command, env=environment, log=file)

    def wait(self, seconds: float = SECONDS_TO_TRAIN) -> int:
        return self._process.wait(seconds)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def text(self) -> str:
        """The program's output so far."""
        return self._log.read_text()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def summary(run: Path) -> dict[str, Any]:
    """Read the summary that a run wrote when it ended."""
    read: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return read


def wait_for_step(run: Path, step: int, program: Program) -> None:
    """Wait until there is a snapshot of this step or a later one."""

    def is_there() -> bool:
        assert not program.ended, program.text
        whole = run.glob("checkpoints/step-*/manifest.json")
        return any(int(path.parent.name.removeprefix("step-")) >= step for path in whole)

    wait_for(f"a snapshot of step {step} in {run}", is_there, 120.0)

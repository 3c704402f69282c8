"""Several hosts on one machine (Linux, root): each with its own address, name, processes and /dev/shm.

    host1 ── port1 ┐
    host2 ── port2 ┼ bridge
    host3 ── port3 ┘

A host is a process with namespaces of its own (network, process ids, mounts, name). Nothing of it has a name on the
machine: it lasts as long as that process, and the process as long as its standard input, which its maker holds. So
a run that is killed leaves neither process nor cable. The machine's other interfaces are not touched. Files are
shared, as on hosts with a shared file system, but for /dev/shm and a folder named "disk".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

NETWORK = "10.77.0"
SHARED_MEMORY = "400m"
TOOLS = ("unshare", "nsenter", "ip", "tc", "ss", "ps", "hostname")
# The first process of a pid namespace is the parent of orphans. It ignores their end, so none stays a zombie.
LIVE = "echo ready; exec env --ignore-signal=CHLD cat"


class NotAllowed(Exception):
    """Namespaces cannot be made here; says why."""


@dataclass(frozen=True)
class Listener:
    """A socket that waits for others: its address and port, and who has it."""

    address: str
    port: int
    process: str

    @property
    def is_local(self) -> bool:
        return self.address in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]") or self.address.startswith("127.")


class Namespace:
    """A process that holds namespaces, and with them all that happens in them."""

    def __init__(self, kinds: Sequence[str], prepare: str = "") -> None:
        """kinds: options of unshare. prepare: shell commands to run inside first. Raises NotAllowed."""
        command = ["unshare", "--fork", "--kill-child", *kinds, "sh", "-ec", f"{prepare}\n{LIVE}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, error = self._process.communicate()
            raise NotAllowed((error.strip().splitlines() or ["unshare failed"])[-1])
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.process = int(children.read_text().split()[0])

    def enter(self, *kinds: str) -> list[str]:
        """Return the words to put before a command that is to run in namespaces of these kinds."""
        return ["nsenter", f"--target={self.process}", *kinds, f"--wd={os.getcwd()}", "--"]

    @property
    def is_up(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill everything in it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        self._process.communicate()


class Host(Namespace):
    """One host on a switch."""

    def __init__(self, name: str, address: str, switch: Switch, names: Path, disk: Path) -> None:
        """names: a file such as /etc/hosts, and there in this host. disk: where it has a disk of its own."""
        super().__init__(
            ("--net", "--pid", "--mount", "--uts", "--mount-proc"),
            f"hostname {name}; ip link set lo up; mount --bind {names} /etc/hosts; "
            f"mount -t tmpfs -o size={SHARED_MEMORY} {name} /dev/shm; mount -t tmpfs {name} {disk}",
        )
        self.name, self.address = name, address
        self._switch, self._port = switch, f"port-{name}"
        switch.plug_in(self._port, self)

    def command(self, *command: str) -> list[str]:
        """Return a command line that runs this command in the host."""
        return [*self.enter("--net", "--pid", "--mount", "--uts"), *command]

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its status."""
        return subprocess.run(
            self.command(*command), env=env, timeout=timeout, capture_output=True, text=True, check=False
        )

    def start(self, *command: str, env: Mapping[str, str], log: IO[str]) -> subprocess.Popen[str]:
        """Start a command; what it says goes to `log`."""
        return subprocess.Popen(
            self.command(*command), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )

    def processes(self, title: str = "") -> list[str]:
        """List the command lines of what runs in the host and begins so, but for the process that keeps it up."""
        lines = self.run("ps", "-e", "-ww", "-o", "pid=,args=").stdout.splitlines()
        fields = [line.strip().partition(" ") for line in lines]
        return [args for pid, _, args in fields if pid != "1" and args.startswith(title) and "ps -e -ww" not in args]

    def listeners(self) -> list[Listener]:
        """List every TCP socket that listens."""
        found = []
        for line in self.run(
            "ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"
        ).stdout.splitlines():
            _, _, _, local, _, *process = line.split()
            address, _, port = local.rpartition(":")
            found.append(Listener(address.partition("%")[0], int(port), " ".join(process)))
        return found

    @contextmanager
    def limited(self, rate: str) -> Iterator[None]:
        """Bound the host's link in both directions, in tc's words: 100mbit."""
        ends: tuple[tuple[Host | Switch, str], ...] = ((self, "eth0"), (self._switch, self._port))
        for place, device in ends:
            bucket = ("tbf", "rate", rate, "burst", "256kb", "latency", "400ms")
            place.checked("tc", "qdisc", "replace", "dev", device, "root", *bucket)
        yield
        for place, device in ends:
            place.checked("tc", "qdisc", "delete", "dev", device, "root")

    def cut_off(self) -> None:
        self._switch.checked("ip", "link", "set", self._port, "down")

    def reconnect(self) -> None:
        self._switch.checked("ip", "link", "set", self._port, "up")

    def lose_power(self) -> None:
        """End all that runs there at once, in no orderly way and unannounced."""
        self.cut_off()
        self.end()

    def checked(self, *command: str) -> None:
        subprocess.run([*self.enter("--net"), *command], check=True)


class Switch(Namespace):
    """A bridge in a network of its own."""

    def __init__(self) -> None:
        super().__init__(("--net",), "ip link add bridge type bridge; ip link set bridge up")

    def plug_in(self, port: str, host: Host) -> None:
        peer = ("peer", "name", "eth0", "netns", str(host.process))
        self.checked("ip", "link", "add", port, "type", "veth", *peer)
        self.checked("ip", "link", "set", port, "master", "bridge", "up")
        host.checked("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.checked("ip", "link", "set", "eth0", "up")

    def checked(self, *command: str) -> None:
        subprocess.run([*self.enter("--net"), *command], check=True)


@contextmanager
def make_hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """Make so many hosts, named host1 and so on, which know each other by name. Raises NotAllowed."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or missing:
        raise NotAllowed(f"made of Linux's namespaces by means of {', '.join(TOOLS)}; not here: {missing}")
    if os.geteuid() != 0:
        raise NotAllowed("made of network namespaces, which takes root")
    names = folder / "hosts"
    lines = [f"{NETWORK}.{number} host{number}" for number in range(1, count + 1)]
    names.write_text("\n".join(("127.0.0.1 localhost", *lines)) + "\n")
    disk = folder / "disk"
    disk.mkdir()
    made: list[Namespace] = []
    try:
        switch = Switch()
        made.append(switch)
        hosts = []
        for number in range(1, count + 1):
            hosts.append(Host(f"host{number}", f"{NETWORK}.{number}", switch, names, disk))
            made.append(hosts[-1])
        yield hosts
    finally:
        for namespace in reversed(made):
            namespace.end()


def wait_for(what: str, true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again until `true()`. Raises AssertionError after so long."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not so: {what}"
        time.sleep(0.1)

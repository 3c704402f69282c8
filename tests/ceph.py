"""A Ceph object store on loopback that answers as S3: one monitor, one store of objects in memory, one gateway.

It is a store that people run, not a stand-in: keys are checked, uploads come in parts, and what was written outlives
the gateway. Its files are in one folder, and its processes end with this one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hosts import wait_for

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
KEY, SECRET = "test-key", "test-secret"
SECONDS_TO_START = 180.0
PR_SET_PDEATHSIG = 1
# The rights of each program, by the kind of part that it asks.
CAPABILITIES = {
    "mon.": ("mon",),
    "client.admin": ("mon", "osd", "mgr"),
    "osd.0": ("mon", "osd", "mgr"),
    "client.gateway": ("mon", "osd"),
}
CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
crash dir = {folder}
keyring = {folder}/keyring
mon data = {folder}/monitor
mon data avail crit = 1
mon allow pool size one = true
osd data = {folder}/objects
osd objectstore = memstore
memstore device bytes = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw thread pool size = 8
"""


def free_ports(count: int) -> list[int]:
    """Find ports of loopback that nothing listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def end_with_parent() -> None:
    """Let the kernel end this process when the one that started it ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Ceph:
    """folder: of its files. gateway: the port where it answers as S3."""

    folder: Path
    monitor: int
    gateway: int
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def uri(self, path: str) -> str:
        """Return the place of a folder in it, as --execution.checkpoints has it; the key is in the environment."""
        return f"s3://{path}?scheme=http&region=default&endpoint_override=127.0.0.1:{self.gateway}"

    def start_all(self) -> None:
        fsid = str(uuid.uuid4())
        ports = {"monitor": self.monitor, "gateway": self.gateway}
        (self.folder / "ceph.conf").write_text(CONFIG.format(fsid=fsid, folder=self.folder, **ports))
        for name in ("monitor", "objects"):
            (self.folder / name).mkdir()
        self._make_keys()
        monitors = str(self.folder / "monitors")
        at = f"[v2:127.0.0.1:{self.monitor}]"
        self.ask("monmaptool", "--create", "--fsid", fsid, "--addv", "a", at, monitors)
        self.ask("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", str(self.folder / "keyring"))
        self._start("monitor", "ceph-mon", "-i", "a")
        objects = str(uuid.uuid4())
        self.ask("ceph", "osd", "new", objects)
        self.ask("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", objects)
        self._start("objects", "ceph-osd", "-i", "0")
        self.start_gateway()
        user = ("--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret-key={SECRET}")
        self.ask("radosgw-admin", "user", "create", *user)

    def _make_keys(self) -> None:
        """Make a key for each program: they trust no other."""
        keyring = str(self.folder / "keyring")
        for number, (name, caps) in enumerate(CAPABILITIES.items()):
            rights = [word for part in caps for word in ("--cap", part, "allow *")]
            new = () if number else ("--create-keyring",)
            self.ask("ceph-authtool", keyring, *new, "--gen-key", "--name", name, *rights)

    def start_gateway(self) -> None:
        self._start("gateway", "radosgw", "-n", "client.gateway")
        wait_for("the gateway answers", self._answers, SECONDS_TO_START)

    def end_gateway(self) -> None:
        """Take away what answers as S3; objects stay."""
        self._end("gateway")

    def freeze_gateway(self) -> None:
        """Let it take connections and say nothing."""
        self._running["gateway"].send_signal(signal.SIGSTOP)

    def thaw_gateway(self) -> None:
        self._running["gateway"].send_signal(signal.SIGCONT)

    def end(self) -> None:
        for name in reversed(list(self._running)):
            self._end(name)

    def ask(self, *command: str) -> str:
        """Run one of Ceph's programs to its end. Raises AssertionError with what it said where it fails."""
        words = [command[0], f"--conf={self.folder / 'ceph.conf'}", *command[1:]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_TO_START, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
        return done.stdout

    def _start(self, name: str, *command: str) -> None:
        words = [command[0], f"--conf={self.folder / 'ceph.conf'}", *command[1:], "--foreground"]
        with (self.folder / f"{name}.out").open("ab") as said:
            self._running[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=end_with_parent
            )

    def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def _answers(self) -> bool:
        said = (self.folder / "gateway.out").read_text()
        assert self._running["gateway"].poll() is None, said[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.gateway)) == 0


@contextmanager
def ceph_or_skip(folder: Path) -> Iterator[Ceph]:
    """Yield a store that runs, or skip the test and say what is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"no S3 server: {', '.join(missing)} not here (scripts/install_parts.sh)")
    monitor, gateway = free_ports(2)
    ceph = Ceph(folder, monitor, gateway)
    try:
        ceph.start_all()
        yield ceph
    finally:
        ceph.end()

"""Real sshd on the hosts of hosts.py, each with a home folder of its own and a way in for one key."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hosts import Host, wait_for
from hosts_or_skip import hosts_or_skip

SSHD = "/usr/sbin/sshd"
PROGRAMS = (SSHD, "ssh", "ssh-keygen", "rsync")
CONFIG = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxStartups 100
SetEnv {environment}
"""


class SshHosts:
    """Hosts that are reached by ssh, and one more (`own`) from which that is done, without a word of configuration."""

    def __init__(self, hosts: Sequence[Host], folder: Path, environment: Mapping[str, str]) -> None:
        """folder: for keys and homes. environment: what every program on a host finds there."""
        *self.hosts, self.own = hosts
        self.folder = folder
        for name in ("key", "host_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True, timeout=60)
        for host in hosts:
            self._make_home(host, environment)
        log = folder / "sshd.log"
        with log.open("a") as file:
            for host in self.hosts:
                text = CONFIG.format(
                    address=host.address,
                    folder=folder,
                    environment=" ".join(f'"{name}={value}"' for name, value in environment.items()),
                )
                config = folder / f"{host.name}.sshd"
                config.write_text(text)
                host.start(SSHD, "-D", "-e", "-f", str(config), env={}, log=file)
        wait_for("sshd listens everywhere", lambda: all(any(e.port == 22 for e in h.listeners()) for h in self.hosts))

    def home(self, host: Host) -> Path:
        return self.folder / "homes" / host.name

    def _make_home(self, host: Host, environment: Mapping[str, str]) -> None:
        """Let root live elsewhere there, and have a place for what programs keep of a running host."""
        home = self.home(host)
        (home / ".ssh").mkdir(parents=True)
        users = self.folder / f"{host.name}.passwd"
        lines = Path("/etc/passwd").read_text().splitlines(keepends=True)
        root = next(line for line in lines if line.startswith("root:")).split(":")
        root[5:] = [str(home), "/bin/bash\n"]
        users.write_text("".join(":".join(root) if line.startswith("root:") else line for line in lines))
        # Else a login shell has the path of the machine's own profile.
        (home / ".bash_profile").write_text(f"export PATH='{environment['PATH']}'\n")
        known = (self.folder / "host_key.pub").read_text().split()[:2]
        others = ",".join(name for each in self.hosts for name in (each.name, each.address))
        (home / ".ssh" / "known_hosts").write_text(f"{others} {' '.join(known)}\n")
        shutil.copy(self.folder / "key", home / ".ssh" / "id_ed25519")
        prepare = f"mount --bind {users} /etc/passwd; mount -t tmpfs {host.name} /run; mkdir -m 755 /run/sshd"
        done = host.run("sh", "-ec", prepare)
        assert done.returncode == 0, done.stderr


@contextmanager
def ssh_hosts_or_skip(folder: Path, environment: Mapping[str, str]) -> Iterator[SshHosts]:
    """Yield three hosts with sshd and one more, or skip the test and say what is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no hosts with ssh: {', '.join(missing)} not here (scripts/install_parts.sh)")
    with ExitStack() as stack:
        hosts = stack.enter_context(hosts_or_skip(folder, 4))
        yield SshHosts(hosts, folder, environment)


def plain_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a host's programs: this Python, no package index, and a disk of the host's own for
    temporary files."""
    python = Path(sys.base_prefix) / "bin"
    return {
        "PATH": f"{python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": str(folder / "disk"),
        "RAY_TMPDIR": str(folder / "disk"),
        "OMP_NUM_THREADS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder / "wheels"),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_CONSTRAINT": "",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

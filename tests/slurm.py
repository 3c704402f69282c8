"""Real SLURM over the hosts of hosts.py: a controller on one of them, which sends jobs to the others."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hosts import Host, wait_for
from hosts_or_skip import hosts_or_skip
from repository import REPOSITORY

PROGRAMS = ("munged", "sbatch", "scancel", "scontrol", "sinfo", "slurmctld", "slurmd", "squeue", "srun")
CPUS = os.cpu_count() or 1
CONFIG = """
ClusterName=test
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={disk}/slurmd
SlurmctldPidFile={disk}/slurmctld.pid
SlurmdPidFile={disk}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
NodeName={nodes} CPUs={cpus} RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """nodes: where jobs run. controller: from where they are sent."""

    def __init__(self, hosts: Sequence[Host], folder: Path) -> None:
        """folder: of all of its files, but for those on each host's own disk."""
        *self.nodes, self.controller = hosts
        self.folder = folder / "slurm"
        (self.folder / "state").mkdir(parents=True)
        self._log = self.folder / "said.log"
        names = ",".join(node.name for node in self.nodes)
        self.config = self.folder / "slurm.conf"
        self.config.write_text(
            CONFIG.format(
                controller=self.controller.name, folder=self.folder, disk=folder / "disk", nodes=names, cpus=CPUS
            )
        )
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for host in hosts:
            prepare = f"mount -t tmpfs {host.name} /run; mkdir -m 755 /run/munge"
            done = host.run("sh", "-ec", prepare)
            assert done.returncode == 0, done.stderr
            own = [f"--{name}-file=/run/munge/munged.{name}" for name in ("log", "pid", "seed")]
            self._start(host, "munged", "--foreground", "--force", f"--key-file={key}", *own)
        wait_for("munged answers", lambda: all(h.run("munge", "--no-input").returncode == 0 for h in hosts))
        self._start(self.controller, "slurmctld", "-D", "-i", "-f", str(self.config))
        for node in self.nodes:
            self._start(node, "slurmd", "-D", "-f", str(self.config))
        wait_for("all nodes are idle", self._is_ready, 120.0)

    def ask(self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> str:
        """Run one of SLURM's programs on the controller's host. Raises AssertionError where it fails."""
        done = self.controller.run(*command, env=self._environment(env or os.environ), timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{self._log.read_text()[-2000:]}"
        return done.stdout.strip()

    def submit(self, script: str, *words: str, env: Mapping[str, str], log: Path) -> int:
        """Send a job of cluster/slurm for all CPUs of three nodes; returns its number."""
        sizes = (f"--cpus-per-task={CPUS}", "--mem=4G", f"--output={log}", f"--chdir={REPOSITORY}")
        path = str(REPOSITORY / "cluster" / "slurm" / script)
        return int(self.ask("sbatch", "--parsable", *sizes, path, *words, env=env))

    def state(self, job: int) -> str:
        """Return RUNNING, COMPLETED, CANCELLED, FAILED or the like."""
        said = self.ask("scontrol", "--oneliner", "show", "job", str(job))
        return said.partition("JobState=")[2].split()[0]

    def wait(self, job: int, seconds: float) -> str:
        """Wait until it has ended on every node; return how."""
        wait_for(f"job {job} has ended", lambda: self.ask("squeue", "--noheader", f"--jobs={job}") == "", seconds)
        return self.state(job)

    def left(self) -> list[str]:
        """List what runs on the nodes beside SLURM itself."""
        return [line for node in self.nodes for line in node.processes() if not line.startswith(("munged", "slurmd"))]

    def _start(self, host: Host, *command: str) -> None:
        with self._log.open("a") as said:
            host.start(*command, env=dict(os.environ), log=said)

    def _is_ready(self) -> bool:
        shown = self.controller.run("sinfo", "--noheader", "--Node", "--format=%T", env=self._environment(os.environ))
        return shown.stdout.split() == ["idle"] * len(self.nodes)

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        return {**given, "SLURM_CONF": str(self.config)}


@contextmanager
def slurm_or_skip(folder: Path) -> Iterator[Slurm]:
    """Yield SLURM with three nodes, or skip the test and say what is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"no SLURM: {', '.join(missing)} not here (scripts/install_parts.sh)")
    with ExitStack() as stack:
        hosts = stack.enter_context(hosts_or_skip(folder, 4))
        yield Slurm(hosts, folder)

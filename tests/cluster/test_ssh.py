"""up.sh, submit.sh and down.sh, and Ray's own launcher, over real sshd, with installation.

scripts/install_parts.sh installs sshd.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from hosts import wait_for
from rayhosts import summary
from repository import REPOSITORY
from sshd import SshHosts, plain_environment, ssh_hosts_or_skip
from wheels import write_wheels

from ffpipe import override, recipe, train

PORT = 6379
ROOM = "--num-cpus=1 --num-gpus=0 --object-store-memory=150000000"
OPTIONS = ("--epochs", "2", "--stages", "3", "--execution.cpus", "1")
SECONDS = 900.0


@pytest.fixture
def ssh_hosts(short_folder: Path) -> Iterator[SshHosts]:
    """Three hosts with sshd and nothing of ffpipe, and one from which they are reached."""
    if importlib.util.find_spec("aiohttp") is None:
        pytest.skip("Ray's dashboard, which takes jobs, is not here: pip install 'ffpipe[cluster]'")
    with ssh_hosts_or_skip(short_folder, plain_environment(short_folder)) as ssh_hosts:
        write_wheels(short_folder)
        yield ssh_hosts


@pytest.fixture
def digest(short_folder: Path) -> str:
    """The digest of the weights that plain sequential code comes to."""
    fields = {"training.epochs": 2, "execution.engine": "local", "execution.run_dir": str(short_folder / "local")}
    return train(override(recipe("digits"), fields)).weights_sha256


def at_home(ssh_hosts: SshHosts) -> dict[str, str]:
    """Return the environment of a person on the host apart."""
    return {**plain_environment(ssh_hosts.folder), "HOME": str(ssh_hosts.home(ssh_hosts.own))}


def launch(ssh_hosts: SshHosts, script: str, *words: str) -> CompletedProcess[str]:
    """Run a launcher from the host apart, with the settings it has by default but for the size of Ray's store."""
    environment = {**at_home(ssh_hosts), "FFPIPE_RAY": ROOM}
    return ssh_hosts.own.run(str(REPOSITORY / "cluster" / script), *words, env=environment, timeout=SECONDS)


@pytest.mark.long
def test_install_up_train_down(ssh_hosts: SshHosts, digest: str, short_folder: Path) -> None:
    unknown = launch(ssh_hosts, "up.sh", "host9")
    assert unknown.returncode == 2
    assert unknown.stderr.strip().splitlines()[-1].startswith("up.sh: what is the address of host9?")
    unknown = launch(ssh_hosts, "up.sh", "host1", "host9")
    assert unknown.returncode == 1
    assert unknown.stderr.strip().splitlines()[-1] == "up.sh: ffpipe could not be put on host9"
    assert not any(host.processes("ray") for host in ssh_hosts.hosts)

    up = launch(ssh_hosts, "up.sh", "host1", "host2", "root@host3")
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"3 host(s) at {ssh_hosts.hosts[0].address}:{PORT}: 3 CPU, 0 GPU" in up.stdout
    folders = [
        ssh_hosts.home(host) / ".ffpipe-cluster" / name
        for host, name in zip(ssh_hosts.hosts, ("host1", "host2", "root-host3"), strict=True)
    ]
    # Installed there, by pip, from the checkout that was sent.
    for folder in folders:
        assert (folder / "venv" / "bin" / "ffpipe").exists()
        assert list(folder.glob("venv/lib/python*/site-packages/ffpipe-*.dist-info"))

    job = launch(ssh_hosts, "submit.sh", "train", "digits", *OPTIONS, "--run-dir", "runs/the one")
    assert job.returncode == 0, job.stdout + job.stderr
    assert summary(folders[0] / "runs" / "the one")["weights_sha256"] == digest

    down = launch(ssh_hosts, "down.sh", "--purge")
    assert down.returncode == 0, down.stdout + down.stderr
    assert not any(folder.exists() for folder in folders)
    for host in ssh_hosts.hosts:
        assert [line for line in host.processes() if "sshd" not in line] == []
        assert {each.port for each in host.listeners()} == {22}
        assert host.run("ls", str(short_folder / "disk")).stdout == ""


def to_edit(ssh_hosts: SshHosts, folder: Path) -> str:
    """Return hosts.yaml with what is there to edit, and a small store of objects, since a host here has little
    memory."""
    config = yaml.safe_load((REPOSITORY / "cluster" / "ray-up" / "hosts.yaml").read_text())
    head, *workers = (host.address for host in ssh_hosts.hosts)
    # Ray keeps sockets of ssh under a name that follows from this one, in a folder that has no setting.
    config["cluster_name"] = folder.name
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"]["ssh_user"] = "root"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[name] = [line.replace("ray start", f"ray start {ROOM}") for line in config[name]]
    (folder / "hosts.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "hosts.yaml")


@pytest.mark.long
def test_rays_own_launcher(ssh_hosts: SshHosts, digest: str, short_folder: Path) -> None:
    config = to_edit(ssh_hosts, short_folder)
    env = at_home(ssh_hosts) | {"PYTHONPATH": ""}
    ray = str(Path(sys.executable).parent / "ray")

    def ask(*words: str) -> str:
        command = ("env", "-C", str(REPOSITORY), ray, *words)
        done = ssh_hosts.own.run(*command, env=env, timeout=SECONDS)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout

    there = "RAY_AUTH_MODE=token ffpipe-venv/bin/"
    try:
        ask("get-auth-token", "--generate")
        ask("up", "-y", config)
        joined = ask("exec", config, f"{there}python ffpipe/cluster/host/wait.py 127.0.0.1:6379 3 600")
        assert "3 host(s)" in joined
        run = "--run-dir runs/one"
        train_there = f"$HOME/ffpipe-venv/bin/ffpipe train digits {' '.join(OPTIONS)} {run}"
        ask("exec", config, f"{there}ray job submit -- {train_there}")
        (written,) = short_folder.rglob("runs/one/summary.json")
        assert summary(written.parent)["weights_sha256"] == digest
        ask("exec", config, "ffpipe-venv/bin/ray stop")
        ask("down", "-y", config)
        # Raylets end when they have not heard of the head for a minute.
        wait_for("Ray has ended", lambda: not any(each.processes("ray") for each in ssh_hosts.hosts), 240.0)
    finally:
        for left in Path("/tmp").glob(f"ray_ssh_*/{hashlib.sha256(short_folder.name.encode()).hexdigest()[:10]}"):
            shutil.rmtree(left)

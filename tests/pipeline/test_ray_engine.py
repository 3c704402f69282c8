"""Behaviour that only real actors can show: failures end the run with a reason, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import warm
from processes import stage_processes

from ffpipe import UserError, override, recipe, train
from ffpipe.config.schema import Config
from ffpipe.system.processes import stat_fields


def config(run_dir: Path, **fields: Any) -> Config:
    quick = {"training.epochs": 400, "training.dims": [64, 60, 50], "execution.run_dir": str(run_dir)}
    return override(recipe("digits"), {**quick, **fields})


@pytest.mark.usefixtures("cluster")
def test_our_own_cluster_listens_on_loopback_alone() -> None:
    """Every socket on which Ray's processes of this session listen."""
    sockets = ray_sockets()
    listening = {}
    for line in [
        *Path("/proc/net/tcp").read_text().splitlines()[1:],
        *Path("/proc/net/tcp6").read_text().splitlines()[1:],
    ]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets:
            listening[fields[9]] = fields[1].split(":")[0]
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(listening) >= 4
    assert set(listening.values()) <= loopback


def ray_sockets() -> set[str]:
    """Return the inodes of the sockets of Ray's servers and workers on this host."""
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            if b"/ffpipe-" not in command and not command.startswith(b"ray::"):
                continue
            for handle in (process / "fd").iterdir():
                target = os.readlink(handle)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.usefixtures("cluster")
def test_signals_to_the_process_group_of_the_program_do_not_reach_ray() -> None:
    """A terminal that is closed, for one, sends some."""
    servers = [
        int(p.name) for p in Path("/proc").glob("[0-9]*") if "/ffpipe-" in command(p) and parent(p) == os.getpid()
    ]
    assert len(servers) >= 2
    assert os.getpgrp() not in {os.getpgid(server) for server in servers}


@pytest.mark.usefixtures("cluster")
def test_a_run_joins_the_cluster_at_ray_address_and_leaves_it_up(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    nodes = ray.nodes()
    options = ["--epochs", "2", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [warm.python(), "-m", "ffpipe", "train", *options],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [node["NodeID"] for node in ray.nodes() if node["Alive"]] == [node["NodeID"] for node in nodes]
    assert stage_processes() == []


@contextmanager
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a long run in a process of its own that has come to its first evaluation, and its temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:  # short enough for Ray's sockets
        options = ["--epochs", "4000", "--run-dir", str(tmp_path / "run")]
        process = subprocess.Popen(
            [warm.python(), "-m", "ffpipe", "train", *options],
            env={**os.environ, "TMPDIR": temporary},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        while not process.stdout.readline().startswith("after epoch"):
            assert process.poll() is None
        yield process, Path(temporary)


def ended(process: subprocess.Popen[str], temporary: Path) -> str:
    """Return the last line that it says; by then nothing of it is left."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(temporary.iterdir()) == []
    assert stage_processes() == []
    return errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("signals", "says"),
    [
        ([signal.SIGALRM], "go on with: ffpipe resume"),
        pytest.param(
            [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM],
            "ffpipe: interrupted",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_signal_takes_everything_down(signals: list[signal.Signals], says: str, tmp_path: Path) -> None:
    with running(tmp_path) as (process, temporary):
        for number in signals:
            process.send_signal(number)
        assert says in ended(process, temporary)


@pytest.mark.long
def test_a_signal_is_obeyed_while_the_head_node_is_stopped(tmp_path: Path) -> None:
    with running(tmp_path) as (process, temporary):
        servers = [
            p for p in Path("/proc").glob("[0-9]*") if str(temporary) in command(p) and "gcs_server" in command(p)
        ]
        os.kill(int(servers[0].name), signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert "go on with: ffpipe resume" in ended(process, temporary)


def command(process: Path) -> str:
    """Return the command line of a process; empty where it has ended."""
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def parent(process: Path) -> int:
    """Return the parent of a process; 0 where it has ended."""
    fields = stat_fields(int(process.name))
    return int(fields[1]) if fields else 0


@pytest.mark.long
def test_a_client_without_the_token_is_refused(cluster: None) -> None:
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False)"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**bare, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "token" in done.stderr.lower()


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_a_run_without_the_token_of_the_cluster_that_it_is_to_join(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(
        [sys.executable, "-m", "ffpipe", "train", "--run-dir", str(tmp_path / "run")],
        env={**bare, "HOME": "/nonexistent", "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "wants a token: set RAY_AUTH_MODE=token" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("cluster")
def test_stages_that_cannot_be_placed_in_time_say_what_is_free(tmp_path: Path) -> None:
    total = ray.cluster_resources()["CPU"]

    @ray.remote
    class Squatter:
        def ping(self) -> None: ...

    squatter = Squatter.options(num_cpus=total).remote()  # type: ignore[attr-defined]  # ray types actors as functions
    ray.get(squatter.ping.remote())
    asked = config(tmp_path / "run")
    asked = replace(asked, execution=replace(asked.execution, start_timeout=2.0))
    try:
        with pytest.raises(UserError, match="could not be placed within 2 s; free are 0 CPU"):
            train(asked)
    finally:
        ray.kill(squatter)
    assert not (tmp_path / "run").exists()

"""Training over three hosts: whatever the network and the hosts do, the weights are those of the local engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import hosts as hosts_module
import pytest
from hosts import Host, wait_for
from hosts_or_skip import hosts_or_skip
from rayhosts import Program, RayHosts, summary, token_environment, wait_for_step

from ffpipe import override, recipe, train

EPOCHS = 40
SNAPSHOTS = {"--snapshot-steps": 40, "--execution.evaluate-every": 10, "--execution.back-off": 0.1}
CUT_SECONDS = 5.0


def arguments(run: Path, stages: int) -> tuple[str, ...]:
    """Return arguments of `ffpipe`, with a stage to a host of one CPU."""
    options = {**SNAPSHOTS, "--epochs": EPOCHS, "--stages": stages, "--execution.cpus": 1, "--run-dir": run}
    return ("train", "digits", *(str(word) for option in options.items() for word in option))


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights that plain sequential code comes to."""
    run = tmp_path_factory.mktemp("local") / "run"
    fields = {"training.epochs": EPOCHS, "execution.engine": "local", "execution.run_dir": str(run)}
    return train(override(recipe("digits"), fields)).weights_sha256


def finished(run: Path, digest: str, stages: int) -> None:
    """Check that the run is whole, its weights are right and it ended on so many stages."""
    result = summary(run)
    assert result["status"] == "finished"
    assert result["weights_sha256"] == digest
    assert result["stages"] == stages


@pytest.mark.long
@pytest.mark.parametrize("rate", ["", "100mbit"])
def test_a_stage_on_each_host(rate: str, whole_ray_hosts: RayHosts, digest: str, tmp_path: Path) -> None:
    ray_hosts = whole_ray_hosts
    with ExitStack() as links:
        for host in ray_hosts.hosts if rate else ():
            links.enter_context(host.limited(rate))
        program = links.enter_context(ray_hosts.command(ray_hosts.hosts[0], *arguments(tmp_path / "run", 3)))
        wait_for_step(tmp_path / "run", 40, program)
        assert len(ray_hosts.stages()) == 3
        assert program.wait() == 0, program.text
    finished(tmp_path / "run", digest, 3)
    assert summary(tmp_path / "run")["recoveries"] == 0
    wait_for("the stages have ended", lambda: not ray_hosts.stages())


@pytest.mark.long
def test_a_cable_that_is_out_for_five_seconds(whole_ray_hosts: RayHosts, digest: str, tmp_path: Path) -> None:
    ray_hosts = whole_ray_hosts
    with ray_hosts.command(ray_hosts.hosts[0], *arguments(tmp_path / "run", 3)) as program:
        wait_for_step(tmp_path / "run", 200, program)
        ray_hosts.hosts[1].cut_off()
        time.sleep(CUT_SECONDS)
        ray_hosts.hosts[1].reconnect()
        assert program.wait() == 0, program.text
    finished(tmp_path / "run", digest, 3)
    # Time it took, not work that was lost.
    assert summary(tmp_path / "run")["recoveries"] == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "before", "after"),
    [(Host.end, 2, 2), (Host.end, 3, 2), (Host.lose_power, 3, 2)],
    ids=["one to spare", "none to spare", "without power"],
)
def test_a_host_that_is_lost(
    loss: Callable[[Host], None], before: int, after: int, ray_hosts: RayHosts, digest: str, tmp_path: Path
) -> None:
    """With a host to spare there are as many stages as before, else fewer."""
    # A host without power says nothing: only its silence gives it away.
    patience = ("--execution.stage-timeout", "10")
    with ray_hosts.command(ray_hosts.hosts[0], *arguments(tmp_path / "run", before), *patience) as program:
        wait_for_step(tmp_path / "run", 200, program)
        working = ray_hosts.stages()
        assert len(working) == before
        loss(working[-1])
        assert program.wait() == 0, program.text
    finished(tmp_path / "run", digest, after)
    assert summary(tmp_path / "run")["recoveries"] >= 1


@pytest.mark.long
def test_the_head_host_is_lost_and_the_run_goes_on_elsewhere(
    ray_hosts: RayHosts, digest: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path / "run"
    with ray_hosts.command(ray_hosts.hosts[1], *arguments(run, 3)) as program:
        wait_for_step(run, 200, program)
        ray_hosts.hosts[0].end()
        assert program.wait() == 1, program.text
        said = program.text.strip().splitlines()[-1]
    assert f"the head node of the Ray cluster ({ray_hosts.address}) has not answered" in said
    assert f"go on with: ffpipe resume {run}" in said
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    for host in ray_hosts.hosts:
        host.end()
    other = tmp_path_factory.mktemp("other")
    with hosts_or_skip(other) as hosts:
        anew = RayHosts(hosts, ray_hosts.folder / "anew")
        with anew.command(hosts[0], "resume", str(run)) as program:
            assert program.wait() == 0, program.text
    finished(run, digest, 3)


@pytest.mark.long
def test_a_cluster_of_our_own_listens_on_loopback_alone(hosts: list[Host], short_folder: Path) -> None:
    """On a host that others could reach."""
    environment = {name: value for name, value in token_environment().items() if not name.startswith("RAY_")}
    environment["TMPDIR"] = str(short_folder / "disk")
    run = short_folder / "run"
    program = Program(hosts[0], arguments(run, 1), environment, short_folder / "log")
    try:
        wait_for_step(run, 40, program)
        listeners = hosts[0].listeners()
        assert listeners
        assert [each for each in listeners if not each.is_local] == []
        assert program.wait() == 0, program.text
    finally:
        program.end()
    wait_for("its Ray has ended", lambda: not hosts[0].processes(), 20.0)


def test_hosts_end_with_the_process_that_made_them(hosts: list[Host], tmp_path: Path) -> None:
    """Even if it is killed. `hosts` only says whether there can be any."""
    code = "import hosts, pathlib, sys\nwith hosts.make_hosts(2, pathlib.Path(sys.argv[1])) as made:\n"
    code += "    print(*[each.process for each in made], flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(hosts_module.__file__).parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as maker:
        assert maker.stdout is not None
        made = [Path("/proc") / process for process in maker.stdout.readline().split()]
        assert len(made) == 2
        assert all(path.exists() for path in made)
        maker.kill()
    wait_for("they have ended", lambda: not any(path.exists() for path in made), 10.0)

"""The sbatch files, run with a srun and a scontrol that stand for SLURM's over three hosts."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Host, wait_for
from rayhosts import summary
from repository import REPOSITORY

from ffpipe import override, recipe, train

JOB = 4242
# Runs a command on the nodes asked for, all at once; SIGTERM goes to what it has started there, as with SLURM's.
SRUN = """#!/usr/bin/env bash
nodes=(host1 host2 host3)
while [[ ${1-} == --* ]]; do
    case $1 in
        --nodelist=*) IFS=, read -r -a nodes <<<"${1#*=}" ;;
        --overlap | --nodes=* | --ntasks=* | --ntasks-per-node=* | --cpus-per-task=[1-9]*) ;;
        *) echo "srun: what is $1?" >&2; exit 2 ;;
    esac
    shift
done
steps=() status=0
for node in "${nodes[@]}"; do
    own="SLURM_NODEID=$((${node#host} - 1))"
    "$STUBS/reach" "$node" env "$own" sh -c 'echo $$ >"$0"; exec "$@"' "$STUBS/$$.$node" "$@" &
    steps+=($!)
done
end() {
    for node in "${nodes[@]}"; do
        own="SLURM_NODEID=$((${node#host} - 1))"
    "$STUBS/reach" "$node" env "$own" sh -c 'kill "$(cat "$0")"' "$STUBS/$$.$node"
    done
}
trap end TERM
for step in "${steps[@]}"; do
    wait "$step" || status=$?
    while kill -0 "$step" 2>/dev/null; do wait "$step" || status=$?; done
done
exit "$status"
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames host[1-3]" ] || exit 2
printf '%s\\n' host1 host2 host3
"""


def stub(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def slurm(hosts: list[Host], folder: Path) -> dict[str, str]:
    """Return the environment of a batch job whose nodes are these hosts."""
    stubs = folder / "stubs"
    stubs.mkdir()
    stub(stubs / "srun", SRUN)
    stub(stubs / "scontrol", SCONTROL)
    cases = "".join(f'{host.name}) set -- {" ".join(host.command())} "$@" ;;\n' for host in hosts)
    stub(stubs / "reach", f'#!/bin/sh\nhost=$1; shift\ncase $host in\n{cases}esac\nexec "$@"\n')
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return plain | {
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "STUBS": str(stubs),
        "TMPDIR": str(folder / "disk"),
        "SLURM_JOB_ID": str(JOB),
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_NODELIST": "host[1-3]",
        "SLURM_JOB_CPUS_PER_NODE": "2(x2),1",
        "FFPIPE_VENV": str(Path(sys.executable).parent.parent),
        "FFPIPE_RAY": "--num-cpus=1 --num-gpus=0 --object-store-memory=150000000",
        "OMP_NUM_THREADS": "1",
    }


def nothing_left(hosts: list[Host], disk: str) -> None:
    """Check that nothing is left: SLURM would end it, here it must end by itself."""
    wait_for("nothing runs any more", lambda: not any(host.processes() for host in hosts), 15.0)
    assert [host.run("ls", disk).stdout for host in hosts] == [""] * len(hosts)


@pytest.mark.long
@pytest.mark.parametrize("name", ["symmetric", "shared-nodes"])
def test_a_run_over_three_nodes(name: str, hosts: list[Host], short_folder: Path, tmp_path: Path) -> None:
    fields = {"training.epochs": 10, "execution.engine": "local", "execution.run_dir": str(tmp_path / "local")}
    digest = train(override(recipe("digits"), fields)).weights_sha256
    env = slurm(hosts, short_folder)
    script = f"cluster/slurm/{name}.sbatch"
    options = ("--epochs", "10", "--stages", "3", "--execution.cpus", "1", "--run-dir", str(tmp_path / "run"))
    done = subprocess.run(
        ["bash", script, "train", "digits", *options],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert summary(tmp_path / "run")["weights_sha256"] == digest
    assert summary(tmp_path / "run")["stages"] == 3
    nothing_left(hosts, env["TMPDIR"])


@pytest.mark.long
def test_a_run_that_fails_says_so_and_leaves_nothing(hosts: list[Host], short_folder: Path) -> None:
    env = slurm(hosts, short_folder)
    command = ["bash", "cluster/slurm/shared-nodes.sbatch", "train", "nonsense"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert "nonsense" in done.stdout
    nothing_left(hosts, env["TMPDIR"])


# One node, this host. A step has the environment that SLURM_EXPORT_ENV says.
OWN_SRUN = """#!/usr/bin/env bash
while [[ ${1-} == --* ]]; do shift; done
export SLURM_NODEID=0
[[ $SLURM_EXPORT_ENV == ALL ]] || exec env -i PATH=/usr/bin:/bin SLURM_JOB_ID="$SLURM_JOB_ID" "$@"
exec "$@"
"""
# Notes what it is told, and does what symmetric-run has a command begin with.
OWN_RAY = """#!/bin/sh
printf '%s\\n' "$@" >"$NOTES/words"
env >"$NOTES/environment"
touch "$TMPDIR/begun"
"""
HOSTNAME = """#!/bin/sh
echo 192.0.2.1
"""
PYTHON = """#!/bin/sh
[ "$1" != -c ] || exit "${OLD:-0}"
echo "$@" >>"$NOTES/python"
"""


@pytest.fixture
def job(short_folder: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a job on this host as its only node, with an environment of stand-ins."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    scripts = {"srun": OWN_SRUN, "scontrol": "#!/bin/sh\necho own\n", "hostname": HOSTNAME}
    for name, text in {**scripts, "ray": OWN_RAY, "ffpipe": "", "python": PYTHON, "pip": PYTHON}.items():
        stub(programs / name, text)
    dropped = ("RAY_", "SLURM_", "FFPIPE_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return plain | {
        "PATH": f"{programs}:/usr/bin:/bin",
        "PYTHONPATH": "/before",
        "NO_PROXY": "a.b",
        "NOTES": str(tmp_path),
        "TMPDIR": str(short_folder),
        "SLURM_EXPORT_ENV": "NONE",
        "SLURM_JOB_ID": str(JOB),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "own",
        "SLURM_JOB_CPUS_PER_NODE": "2",
        "FFPIPE_VENV": str(tmp_path / "venv"),
    }


def send(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "cluster/slurm/symmetric.sbatch", *words]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_what_a_step_is_told(job: dict[str, str], short_folder: Path, tmp_path: Path) -> None:
    """Also where sbatch was given --export: the token, this checkout's code, no proxy for this host."""
    done = send(job, "train", "digits")
    assert done.returncode == 0, done.stderr
    told = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines())
    assert len(told["RAY_AUTH_TOKEN"]) == 64
    assert told["PYTHONPATH"] == f"{REPOSITORY}:/before"
    assert told["no_proxy"] == "127.0.0.1,a.b"
    (address,) = [line for line in (tmp_path / "words").read_text().splitlines() if line.startswith("--address=")]
    first = int(address.rpartition(":")[2])
    # Beside the ports of Ray's workers, among which a head's is refused, and those of connections.
    assert 19999 < first < first + 99 < 32768
    assert list(short_folder.iterdir()) == []


@pytest.mark.parametrize("given", [["--run-dir", "{}"], ["--run-dir={}"]])
def test_a_job_that_is_begun_anew_goes_on(
    given: list[str], job: dict[str, str], short_folder: Path, tmp_path: Path
) -> None:
    """In a folder that its first start has left on the node."""
    run = tmp_path / "run"
    words = ["train", "digits", *(word.format(run) for word in given)]
    (short_folder / f"ffpipe-{JOB}").mkdir()
    again = {**job, "SLURM_RESTART_COUNT": "1"}
    assert send(again, *words).returncode == 0
    assert (tmp_path / "words").read_text().splitlines()[-len(words) :] == words
    run.mkdir()
    (run / "config.toml").touch()
    assert send(again, *words).returncode == 0
    assert (tmp_path / "words").read_text().splitlines()[-3:] == ["ffpipe", "resume", str(run)]


def test_a_temporary_folder_that_is_there_is_left_alone(job: dict[str, str], short_folder: Path) -> None:
    theirs = short_folder / f"ffpipe-{JOB}" / "theirs"
    theirs.mkdir(parents=True)
    done = send(job, "train", "digits")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{theirs.parent} cannot be made on every node: let TMPDIR be")
    assert theirs.exists()


def test_the_python_that_makes_the_environment(job: dict[str, str], tmp_path: Path) -> None:
    """Another than ffpipe needs is refused before it makes one, and where it has made one."""
    programs = tmp_path / "venv" / "bin"
    (programs / "ffpipe").chmod(0o644)
    old = send({**job, "OLD": "1"}, "train", "digits")
    assert old.returncode == 2
    assert old.stderr.startswith(f"{programs}/python is not Python 3.11 to 3.14: set FFPIPE_PYTHON")
    own = tmp_path / "own"
    (programs / "python").rename(own)
    new = {**job, "FFPIPE_PYTHON": str(own)}
    assert send({**new, "OLD": "1"}, "train", "digits").stderr.startswith(f"{own} is not Python 3.11 to 3.14")
    assert not (tmp_path / "python").exists()
    assert send(new, "train", "digits").returncode == 0
    made, torch, ffpipe = (tmp_path / "python").read_text().splitlines()
    assert made == f"-m venv {tmp_path / 'venv'}"
    assert "torch==" in torch
    assert ffpipe.endswith("-e .[cluster]")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is left")
def test_what_a_step_has_started_ends_with_it(tmp_path: Path) -> None:
    """Even a daemon, which is not a child of it any more; and the folder is gone."""
    folder, daemon = tmp_path / "folder", tmp_path / "daemon"
    folder.mkdir()
    command = ["sh", str(REPOSITORY / "cluster/slurm/step.sh"), str(folder)]
    script = f"setsid sleep 300 & echo $! >{daemon}; exit 4"
    env = {**os.environ, "SLURM_JOB_ID": str(tmp_path), "SLURM_STEP_ID": "0"}
    done = subprocess.run([*command, "sh", "-c", script], env=env, timeout=60, check=False)
    assert done.returncode == 4
    assert not folder.exists()
    wait_for("the daemon has ended", lambda: not Path(f"/proc/{daemon.read_text().strip()}").exists(), 10.0)

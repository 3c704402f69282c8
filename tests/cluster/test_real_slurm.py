"""Both sbatch files under a real SLURM, with its controller and three nodes (scripts/install_parts.sh installs it)."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import wait_for
from rayhosts import summary
from repository import REPOSITORY
from slurm import CPUS, Slurm, slurm_or_skip

from ffpipe import override, recipe, train
from ffpipe.commands.cli import main
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store

SECONDS = 600.0
SIZE = ("--training.dims", "64", "20", "20", "20", "--train-limit", "100")


@pytest.fixture
def slurm(short_folder: Path) -> Iterator[Slurm]:
    """SLURM with three idle nodes."""
    if importlib.util.find_spec("aiohttp") is None:
        pytest.skip("Ray's dashboard, which takes jobs, is not here: pip install 'ffpipe[cluster]'")
    with slurm_or_skip(short_folder) as slurm:
        yield slurm


@pytest.fixture
def env(short_folder: Path) -> dict[str, str]:
    """The environment of a person who sends a job."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return plain | {
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(short_folder / "disk"),
        "FFPIPE_VENV": str(Path(sys.executable).parent.parent),
        "FFPIPE_RAY": "--num-cpus=1 --num-gpus=0 --object-store-memory=150000000",
        "OMP_NUM_THREADS": "1",
    }


def digest_of_local(run: Path, epochs: int) -> str:
    """Return the digest of the weights that plain sequential code comes to."""
    fields = {"training.dims": [64, 20, 20, 20], "training.data.train_limit": 100, "training.epochs": epochs}
    whole = {**fields, "execution.engine": "local", "execution.run_dir": str(run)}
    return train(override(recipe("digits"), whole)).weights_sha256


def nothing_left(slurm: Slurm, disk: Path) -> None:
    """Check that neither processes nor files are left, but for SLURM's own."""
    wait_for("nothing runs any more", lambda: slurm.left() == [], 60.0)
    for node in slurm.nodes:
        files = node.run("find", str(disk), "-mindepth", "1", "-maxdepth", "1").stdout.split()
        assert [path for path in files if not Path(path).name.startswith("slurm")] == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["symmetric", "shared-nodes"])
def test_a_run_over_three_nodes(name: str, slurm: Slurm, env: dict[str, str], short_folder: Path) -> None:
    run, log = short_folder / "run", short_folder / "log"
    options = (*SIZE, "--epochs", "4", "--stages", "3", "--execution.cpus", "1", "--run-dir", str(run))
    job = slurm.submit(f"{name}.sbatch", "train", "digits", *options, env=env, log=log)
    assert slurm.wait(job, SECONDS) == "COMPLETED", log.read_text()[-4000:]
    assert summary(run)["weights_sha256"] == digest_of_local(short_folder / "local", 4)
    assert summary(run)["stages"] == 3
    nothing_left(slurm, short_folder / "disk")


@pytest.mark.long
@pytest.mark.parametrize("name", ["symmetric", "shared-nodes"])
def test_a_job_that_is_cancelled(name: str, slurm: Slurm, env: dict[str, str], short_folder: Path) -> None:
    """It ends on every node, and the run goes on from its last snapshot."""
    run, log = short_folder / "run", short_folder / "log"
    options = (*SIZE, "--epochs", "1000", "--snapshot-steps", "20", "--stages", "3", "--execution.cpus", "1")
    job = slurm.submit(f"{name}.sbatch", "train", "digits", *options, "--run-dir", str(run), env=env, log=log)
    store = Store(str(run / "checkpoints"))

    def has_begun() -> bool:
        assert slurm.state(job) in ("PENDING", "RUNNING"), log.read_text()[-4000:]
        return run.exists() and bool(checkpoint.whole_snapshots(store))

    wait_for("there is a snapshot", has_begun, SECONDS)
    # A step of one task has all CPUs of the job there, not one.
    (node,) = [node for node in slurm.nodes if node.processes("ray::StageActor")][:1]
    bound = node.run("sh", "-c", "for each in $(pgrep -f [r]ay::StageActor); do taskset -p $each; done").stdout
    assert [int(line.split()[-1], 16).bit_count() for line in bound.splitlines()] == [CPUS], bound
    slurm.ask("scancel", str(job))
    assert slurm.wait(job, SECONDS) == "CANCELLED"
    nothing_left(slurm, short_folder / "disk")
    assert "Traceback" not in log.read_text(), log.read_text()
    assert not list(run.rglob("*.tmp"))
    assert main(["resume", str(run), "--engine", "local", "--snapshot-steps", "0"]) == 0
    assert summary(run)["weights_sha256"] == digest_of_local(short_folder / "local", 1000)


@pytest.mark.long
def test_a_run_that_fails(slurm: Slurm, env: dict[str, str], short_folder: Path) -> None:
    log = short_folder / "log"
    job = slurm.submit("shared-nodes.sbatch", "train", "nonsense", env=env, log=log)
    assert slurm.wait(job, SECONDS) == "FAILED"
    assert "nonsense" in log.read_text()
    nothing_left(slurm, short_folder / "disk")

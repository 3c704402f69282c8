"""Stores that are too small are found before a run begins, and what the message names is enough."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from repository import SCRIPTS

from ffpipe.config.limits import LEAST_OBJECT_STORE
from ffpipe.engines.ray.cluster import own_store_bytes
from ffpipe.system.errors import UserError

SCRIPT = SCRIPTS / "object_store_use.py"
STORE = 80_000_000
WIDE = ["--training.dims", "64", "20000", "640", "--stages", "2"]
MB = 10**6


def ffpipe(run: Path, *options: str, shm: str = "") -> subprocess.CompletedProcess[str]:
    """Train one epoch in a process of its own; with `shm`, in one that sees a /dev/shm of that size."""
    command = [sys.executable, "-m", "ffpipe", "train", *WIDE, "--epochs", "1", "--run-dir", str(run), *options]
    if shm:
        mount = f'mount -t tmpfs -o size={shm} tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.long
def test_a_window_that_does_not_fit_is_refused_and_the_one_named_runs_and_spills_nothing(tmp_path: Path) -> None:
    done = ffpipe(tmp_path / "run", "--execution.window", "24", "--execution.object-store-bytes", str(STORE))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has 80 MB" in done.stderr
    assert not (tmp_path / "run").exists()
    named = re.search(r"give --execution\.window (\d+), or --execution\.object-store-bytes (\d+)", done.stderr)
    assert named is not None
    shape = {"training.dims": [64, 20000, 640], "training.epochs": 2, "execution.stages": 2}
    for size in (
        {"execution.window": int(named[1]), "execution.object_store_bytes": STORE},
        {"execution.window": 24, "execution.object_store_bytes": int(named[2])},
    ):
        used = subprocess.run(
            [sys.executable, str(SCRIPT), "--fields", json.dumps({**shape, **size})],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert used.returncode == 0, used.stdout + used.stderr
        [run] = json.loads(used.stdout.splitlines()[-1])["runs"]
        assert run["window"] == size["execution.window"]
        assert 0.5 * run["worked_out"] < run["held"] <= run["worked_out"]
        assert run["spills"] == run["files_beside"] == 0


def can_mount() -> bool:
    """Return whether this process may have a /dev/shm of its own (Linux, root)."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="this process cannot mount a /dev/shm of its own")
class TestSmallSharedMemory:
    @pytest.mark.long
    def test_the_window_shrinks_to_it(self, tmp_path: Path) -> None:
        done = ffpipe(tmp_path / "run", shm="100m")
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert 1 <= summary["window"] <= 6

    @pytest.mark.long
    def test_a_window_that_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        done = ffpipe(tmp_path / "run", "--execution.window", "20", shm="100m")
        assert done.returncode == 2
        assert re.search(
            r"--execution\.window 6, or .*after giving /dev/shm more \(docker run --shm-size=", done.stderr
        )
        assert not (tmp_path / "run").exists()

    @pytest.mark.long
    def test_without_room_for_any_store_it_is_on_disk_and_says_so(self, tmp_path: Path) -> None:
        """64 MB are what Docker gives."""
        done = ffpipe(tmp_path / "run", shm="64m")
        assert done.returncode == 0, done.stderr
        assert "warning: /dev/shm has 67 MB free" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("asked", "default", "shared", "size"),
    [
        (0, 7000 * MB, 24000 * MB, 7000 * MB),
        (0, 7000 * MB, 1000 * MB, 950 * MB),
        (0, 7000 * MB, 64 * MB, 7000 * MB),  # on disk
        (200 * MB, 7000 * MB, 1000 * MB, 200 * MB),
        (0, LEAST_OBJECT_STORE, LEAST_OBJECT_STORE, LEAST_OBJECT_STORE),
    ],
)
def test_the_size_of_a_store_of_our_own(asked: int, default: int, shared: int, size: int) -> None:
    assert own_store_bytes(asked, default, shared) == size


def test_a_store_for_which_there_is_no_shared_memory() -> None:
    with pytest.raises(UserError, match=r"has 64000000 bytes free: .*--shm-size=211000000"):
        own_store_bytes(200 * MB, 7000 * MB, 64 * MB)

"""Folders of dead processes are swept, all others stay."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from ffpipe.config.schema import Execution
from ffpipe.engines.layerwise.spoolfolder import spool_folder
from ffpipe.engines.ray.settings import folder_of_clusters
from ffpipe.runs.controller import make_engine
from ffpipe.system.leftovers import OWNER, own_folder, sweep, sweep_all

MAKE = """
import pathlib, sys
from ffpipe.system.leftovers import own_folder
print(own_folder(pathlib.Path(sys.argv[1]), "ffpipe"))
"""


def test_only_what_a_dead_process_of_this_host_left_is_swept(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", MAKE, str(tmp_path)], check=True)
    first, second = sorted(tmp_path.iterdir())
    (first / "session").mkdir()
    (second / OWNER).write_text("another host, where that process is alive")
    mine = own_folder(tmp_path, "ffpipe")
    others = [tmp_path / "ffpipe-notes-abc", tmp_path / "other", tmp_path / "ffpipe-1-x"]
    for folder in others:
        folder.mkdir()
    sweep(tmp_path, "ffpipe")
    assert sorted(tmp_path.iterdir()) == sorted([second, mine, *others])


def test_what_a_dead_process_had_started_is_ended_but_not_who_looks_on(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE, str(tmp_path)], check=True)
    log = next(tmp_path.iterdir()) / "log"
    log.touch()
    with log.open("a") as written, log.open() as read:
        at_work = subprocess.Popen(["sleep", "60"], stdout=written)
        looks_on = subprocess.Popen(["sleep", "60"], stdin=read)
    with log.open("a"):  # nor who sweeps
        sweep(tmp_path, "ffpipe")
    assert at_work.wait(30) == -signal.SIGKILL
    assert looks_on.poll() is None
    looks_on.kill()
    looks_on.wait()
    assert list(tmp_path.iterdir()) == []


ENDS_WHILE_LISTED = """
import pathlib, subprocess, sys
from ffpipe.system.processes import end_writers

process = subprocess.Popen(["sleep", "60"])
def end(event, arguments):
    if event == "os.scandir" and str(arguments[0]) == f"/proc/{process.pid}/fd" and process.returncode is None:
        process.kill()
        process.wait()
sys.addaudithook(end)
end_writers(pathlib.Path(sys.argv[1]))
print(process.poll())
"""


def test_a_process_that_ends_while_its_files_are_listed_is_passed_over(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", ENDS_WHILE_LISTED, str(tmp_path)], capture_output=True, text=True)
    assert (found.stdout.strip(), found.stderr) == (str(-signal.SIGKILL), "")


@pytest.mark.parametrize("engine", ["local", "layerwise"])
def test_an_engine_without_ray_sweeps_too(engine: Literal["local", "layerwise"]) -> None:
    made = subprocess.run(
        [sys.executable, "-c", MAKE, str(folder_of_clusters())], check=True, capture_output=True, text=True
    )
    left = Path(made.stdout.strip())
    assert left.exists()
    make_engine(Execution(engine=engine))
    assert not left.exists()


def test_a_folder_that_is_gone_holds_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        own_folder(tmp_path, "ffpipe").rename(tmp_path / "away")
        shutil.rmtree(tmp_path / "away")
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_spool_that_is_removed_has_no_file_open(tmp_path: Path) -> None:
    """Else NFS would keep that under another name, and so the folder."""
    with spool_folder(tmp_path) as place:
        held = open_in(place)
    assert (held, open_in(place)) == (1, 0)


def open_in(folder: Path) -> int:
    """Count the files in a folder that this process has open, removed ones too."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found += os.readlink(f"/proc/self/fd/{each}").startswith(str(folder))
    return found


def test_a_folder_that_cannot_be_owned_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        own_folder(tmp_path, "ffpipe")
    assert not list(tmp_path.iterdir())


def test_a_pipe_in_place_of_the_owner_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "ffpipe-1-x").mkdir()
    os.mkfifo(tmp_path / "ffpipe-1-x" / OWNER)
    sweep(tmp_path, "ffpipe")
    assert list(tmp_path.iterdir()) == [tmp_path / "ffpipe-1-x"]


def test_in_a_place_of_ones_own_all_goes_but_not_what_a_link_leads_to(tmp_path: Path) -> None:
    own_folder(tmp_path, "ffpipe-spool")
    (tmp_path / "ffpipe-spool-1-x").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "file").touch()
    link = tmp_path / "ffpipe-spool-2-x"
    link.symlink_to(tmp_path / "checkpoints")
    sweep_all(tmp_path, "ffpipe-spool")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "checkpoints", link]
    assert (tmp_path / "checkpoints" / "file").exists()

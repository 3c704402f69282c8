"""Folders of dead processes are swept, all others stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ffpipe.pipeline.leftovers import OWNER, own_folder, sweep

MAKE = """
import pathlib, sys
from ffpipe.pipeline.leftovers import own_folder
own_folder(pathlib.Path(sys.argv[1]), "ffpipe")
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

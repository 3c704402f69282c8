"""Folders of dead processes are swept, all others stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ffpipe.pipeline.leftovers import sweep


def test_only_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    names = [f"ffpipe-{ended.pid}-abc", f"ffpipe-{os.getpid()}-abc", "ffpipe-notes-abc", "other"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    sweep(tmp_path, "ffpipe")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])

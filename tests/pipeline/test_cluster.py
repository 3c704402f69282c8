"""What does not need a cluster to be shown: folders of killed processes are swept, addresses are looked at first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ffpipe.errors import UserError
from ffpipe.pipeline.cluster import Cluster, sweep


def test_only_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    names = [f"ffpipe-{ended.pid}-abc", f"ffpipe-{os.getpid()}-abc", "ffpipe-notes-abc", "other"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.parametrize(
    ("address", "says"), [("ray://127.0.0.1:10001", "HOST:PORT"), ("127.0.0.1:1", "refused"), ("nonsense", "nonsense")]
)
def test_an_address_that_cannot_be_joined(address: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Cluster._join(address)

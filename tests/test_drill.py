"""One round of the drill: every fault once, and every run ends as the undisturbed one does, with nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from repository import SCRIPTS

DRILL = SCRIPTS / "drill.py"
FAULTS = {
    *("first chunk", "middle", "last chunk", "two at once", "snapshot", "evaluation", "set-up", "stop"),
    *("only raylet", "driver", "cut"),
    *("raylet", "raylet, no room", "driver's raylet", "head"),
    *("disk full", "disk full at the end"),
}


@pytest.mark.long
def test_every_fault_once() -> None:
    # Ray's settings of this process are not for the drill's own clusters.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(DRILL), "--rounds", "1", "--seed", "7"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["drill"]) == FAULTS
    assert set(result["resumed on"]) == {"more", "fewer"}
    assert result["wrong"] == []

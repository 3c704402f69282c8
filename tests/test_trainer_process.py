"""A signal reaches the trainer once, however it comes, and its end is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from disturbed import wait_until
from repository import SCRIPTS
from trainer_process import Ended, run_to_its_end

pytestmark = pytest.mark.long


# Says which signals came, and ends a while after the first one.
TRAINER = """
import signal, sys, time
came = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: came.append(signal.Signals(number).name))
print("begun", flush=True)
while not came:
    time.sleep(0.01)
time.sleep(0.5)
print(*came, flush=True)
sys.exit(7)
"""
PARENT = """
import signal, sys
import trainer_process
from trainer_process import run_to_its_end
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, and stay so
trainer_process.SAME_WISH_SECONDS = float(sys.argv[1])
with open("log", "a") as log:
    print(run_to_its_end([sys.executable, "trainer.py"], log))
"""


@pytest.mark.parametrize(
    ("sent", "same_wish", "comes"),
    [
        ([signal.SIGINT], 60, "SIGINT"),
        ([signal.SIGTERM], 60, "SIGTERM"),
        ([signal.SIGHUP], 60, "SIGTERM"),
        ([signal.SIGTERM, signal.SIGTERM], 60, "SIGTERM"),
        ([signal.SIGINT, signal.SIGTERM], 0, "SIGINT SIGTERM"),  # the second says: do not wait
    ],
)
def test_one_wish_is_told_once(sent: list[signal.Signals], same_wish: float, comes: str, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(same_wish)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and "begun" in log.read_text())
    for number in sent:
        os.killpg(parent.pid, number)
    assert parent.communicate(timeout=60)[0] == "Ended(status=7, interrupted=True)\n"
    assert log.read_text().splitlines() == ["begun", comes]


@pytest.mark.parametrize(("program", "status"), [("", 0), ("exit 3", 3), ("kill -TERM $$", 143)])
def test_the_status_is_that_of_a_shell(program: str, status: int, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (tmp_path / "log").open("w") as log:
        assert run_to_its_end(["sh", "-c", program], log) == Ended(status, interrupted=False)
    assert signal.getsignal(signal.SIGTERM) is before

"""A child process gives an answer and leaves nothing else, or leaves the question to its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from ffpipe.system.child import in_child

linux = pytest.mark.skipif(sys.platform != "linux", reason="no process is forked on this system")
# A process of its own: in that of the tests the compiler of torch is loaded.
PROGRAM = """
import sys
import ffpipe
from ffpipe.learn.blueprint import worked_out
from ffpipe.pipeline.job import make_job
from ffpipe.planning.cost import costs_of, work_out
from ffpipe.runs.controller import planned

fields = {"training.negatives": "none", "training.readout": "last", "training.epochs": 1, "execution.engine": "local"}
config = ffpipe.override(ffpipe.recipe("digits"), fields)
job = make_job(config, work_out=work_out)
costs = costs_of(job.network)
planned(ffpipe.override(config, {"execution.memory_budget": "1GiB"}))
ffpipe.train(ffpipe.override(config, {"execution.run_dir": sys.argv[1]}))
assert "torch._dynamo" not in sys.modules
here = make_job(config)
assert "torch._dynamo" in sys.modules
assert here.network.outlines == job.network.outlines
assert costs_of(here.network) == costs
assert costs_of(make_job(config, work_out=work_out).network) == costs
"""


@linux
def test_only_what_it_returns_is_left() -> None:
    kept = list[int]()

    def find() -> tuple[int, int]:
        kept.append(1)
        return os.getpid(), os.getppid()

    found = in_child(find)
    assert found is not None
    assert found[0] != os.getpid() == found[1]
    assert not kept


def fails() -> Any:
    raise ValueError("not here")


def leaves() -> Any:
    sys.exit(3)


def cannot_be_sent() -> Any:
    return lambda: 3


def is_killed() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@linux
@pytest.mark.parametrize("find", [fails, leaves, cannot_be_sent, is_killed])
def test_what_fails_there_is_left_to_this_process_without_a_word(find: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert in_child(find) is None
    assert capfd.readouterr() == ("", "")


@linux
def test_a_child_that_does_not_answer_is_ended() -> None:
    began, numbers = time.monotonic(), os.pipe()

    def waits() -> None:
        os.write(numbers[1], str(os.getpid()).encode())
        time.sleep(600)

    assert in_child(waits, seconds=0.5) is None
    assert time.monotonic() - began < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int(os.read(numbers[0], 20)), 0)
    for each in numbers:
        os.close(each)


@linux
def test_a_child_has_none_of_its_own() -> None:
    assert in_child(lambda: (in_child(os.getpid),)) == (None,)


@linux
def test_training_does_without_the_compiler_of_torch(tmp_path: Any) -> None:
    """It would be 90 MB of each process that works shapes out."""
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "run")], check=True, timeout=300)

"""The memory that steps free: what processes keep of it, and what a plan says of that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from ffpipe import override, recipe
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.worker_setup import largest_kept
from ffpipe.planning.estimate import KEPT, estimate_stage
from ffpipe.planning.memory import NetworkSizes

MIB = 1 << 20
# Writes twenty arrays of 6 MiB, frees them, and prints the MiB that stay.
FREED = f"""
import numpy as np
from ffpipe.system.memory import keep_freed, process_bytes
keep_freed({{}})
first = np.ones(6 * {MIB}, np.uint8)
before = process_bytes()
arrays = [np.ones(6 * {MIB}, np.uint8) for _ in range(20)]
last = np.ones(100, np.uint8)
del arrays
print((process_bytes() - before) // {MIB})
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc alone has the switch")
@pytest.mark.parametrize(("largest", "stays"), [(4 * MIB, range(20)), (32 * MIB, range(100, 140))])
def test_arrays_up_to_a_size_are_kept(largest: int, stays: range) -> None:
    command = [sys.executable, "-c", FREED.format(largest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) in stays


def test_a_plan_counts_the_holes_between_large_tensors() -> None:
    def of(**fields: object) -> tuple[int, int]:
        job = make_job(override(recipe("digits-cnn"), {f"execution.{name}": value for name, value in fields.items()}))
        buffers = estimate_stage(job, NetworkSizes(job.network, 1), range(1), 0).breakdown.buffers
        return largest_kept(job.network, job.config.execution), buffers

    nothing, without = of(keep_freed=False)
    assert nothing == 0
    assert of(keep_freed=True, keep_largest="4MiB") == (4 * MIB, without)
    assert of(keep_freed=True) == (32 * MIB, round(KEPT * without))
    assert of(keep_freed=True, memory_budget="2GiB") == (0, without)

"""The memory and CPUs of a host, by its control groups, and memory that is given back."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import numpy as np
import pytest
from mappings import resident

from ffpipe.system import memory


def write(file: Path, text: object) -> None:
    """Write a file of a system, below a root of a test's own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("line", "file", "text", "found"),
    [
        ("4:memory:/jobs/mine", "memory/jobs/mine/memory.limit_in_bytes", "1610612736", [1610612736]),
        ("4:memory:/jobs/mine", "memory/memory.limit_in_bytes", "700", [700]),  # as a container sees its own group
        ("0::/jobs/mine", "jobs/mine/memory.max", "800", [800]),
        ("0::/jobs/mine", "jobs/memory.max", "900", [900]),  # that of the group around it
        ("0::/jobs/mine", "jobs/mine/memory.max", "max", []),
        ("5:devices:/jobs/mine", "devices/jobs/mine/memory.max", "800", []),
    ],
)
def test_limits_of_control_groups(line: str, file: str, text: str, found: list[int], tmp_path: Path) -> None:
    write(tmp_path / memory.GROUPS, line)
    write(tmp_path / memory.ROOT_OF_GROUPS / file, text)
    assert memory._group_limits(tmp_path) == found


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("4:memory:/mine", "memory/mine/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("0::/mine", "mine/memory.events", "low 0\nmax 7\noom 3\noom_kill 2\n"),
    ],
)
def test_processes_that_were_killed_for_want_of_memory(line: str, file: str, text: str, tmp_path: Path) -> None:
    assert memory.oom_kills(tmp_path) == 0  # where nothing says so
    write(tmp_path / memory.GROUPS, line)
    write(tmp_path / memory.ROOT_OF_GROUPS / file, text)
    write(tmp_path / memory.COUNTS_OF_HOST, "pgfault 9\noom_kill 5")
    assert memory.oom_kills(tmp_path) == 7


@pytest.mark.parametrize(
    ("host", "limits", "room", "hard"),
    [
        ("MemAvailable: 4 kB\nSwapTotal: 0 kB", [9000], (4096, "this host has free"), 9000),
        ("MemAvailable: 4 kB\nSwapTotal: 0 kB", [9000, 700], (700, "this control group has"), 700),
        ("MemAvailable: 4 kB\nSwapTotal: 8 kB", [700], (700, "this control group has"), math.inf),
        ("MemAvailable: 4 kB", [], (4096, "this host has free"), math.inf),
    ],
)
def test_room(host: str, limits: list[int], room: tuple[int, str], hard: float, tmp_path: Path) -> None:
    write(tmp_path / memory.MEMORY_OF_HOST, host)
    write(tmp_path / memory.GROUPS, "0::/outer/mine")
    for limit, folder in zip(limits, ("outer", "outer/mine"), strict=False):
        write(tmp_path / memory.ROOT_OF_GROUPS / folder / "memory.max", limit)
    assert memory.room(tmp_path) == room
    assert memory.hard_limit(tmp_path) == hard


@pytest.mark.parametrize(
    ("line", "files", "found"),
    [
        ("0::/jobs/mine", {"jobs/mine/cpu.max": "150000 100000"}, [1.5]),
        ("0::/jobs/mine", {"jobs/mine/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, [3.0]),
        ("0::/jobs/mine", {}, []),
        (
            "3:cpu,cpuacct:/mine",
            {"cpu/mine/cpu.cfs_quota_us": "200000", "cpu/mine/cpu.cfs_period_us": "100000"},
            [2.0],
        ),
        ("3:cpu,cpuacct:/mine", {"cpu/mine/cpu.cfs_quota_us": "-1", "cpu/mine/cpu.cfs_period_us": "100000"}, []),
    ],
)
def test_quotas_of_control_groups(line: str, files: dict[str, str], found: list[float], tmp_path: Path) -> None:
    write(tmp_path / memory.GROUPS, line)
    for name, text in files.items():
        write(tmp_path / memory.ROOT_OF_GROUPS / name, text)
    assert memory._group_quotas(tmp_path) == found


@pytest.mark.parametrize(("quota", "cpus"), [("max", 8), (290_000, 2), (50_000, 1), (6_400_000, 8)])
def test_cpus_are_whole_and_one_at_least(
    quota: int | str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    write(tmp_path / memory.GROUPS, "0::/mine")
    write(tmp_path / memory.ROOT_OF_GROUPS / "mine" / "cpu.max", f"{quota} 100000")
    assert memory.host_cpus(tmp_path) == cpus


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert memory._group_limits(tmp_path) == []
    assert memory._group_quotas(tmp_path) == []
    assert memory.host_bytes() > 0


def test_pages_taken_out_of_a_process_come_back_as_they_were(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 20 * mmap.PAGESIZE
    path.write_bytes(bytes(range(256)) * (size // 256))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, dtype=np.uint8)[100:]
    before = array.copy()
    memory.unmap(array)
    assert resident(path) <= 2 * mmap.PAGESIZE  # those that the array has only a part of
    assert (array == before).all()


def test_a_peak_is_at_least_what_there_is() -> None:
    now = memory.process_bytes()
    assert memory.peak_bytes() >= now > 0

"""The memory and CPUs of a host, by its control groups, and memory that is given back."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import numpy as np
import pytest
from mappings import resident

from ffpipe.system import memory


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
    groups, limit = tmp_path / "cgroup", tmp_path / "fs" / file
    groups.write_text(line + "\n")
    limit.parent.mkdir(parents=True)
    limit.write_text(text + "\n")
    assert memory._group_limits(groups, tmp_path / "fs") == found


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("4:memory:/mine", "memory/mine/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("0::/mine", "mine/memory.events", "low 0\nmax 7\noom 3\noom_kill 2\n"),
    ],
)
def test_processes_that_were_killed_for_want_of_memory(
    line: str, file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in (("GROUPS", "cgroup"), ("ROOT_OF_GROUPS", "fs"), ("COUNTS_OF_HOST", "vmstat")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert memory.oom_kills() == 0  # where nothing says so
    (tmp_path / "cgroup").write_text(line + "\n")
    (tmp_path / "fs" / file).parent.mkdir(parents=True)
    (tmp_path / "fs" / file).write_text(text)
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 5\n")
    assert memory.oom_kills() == 7


@pytest.mark.parametrize(
    ("host", "limits", "room", "hard"),
    [
        ("MemAvailable: 4 kB\nSwapTotal: 0 kB", [9000], (4096, "this host has free"), 9000),
        ("MemAvailable: 4 kB\nSwapTotal: 0 kB", [9000, 700], (700, "this control group has"), 700),
        ("MemAvailable: 4 kB\nSwapTotal: 8 kB", [700], (700, "this control group has"), math.inf),
        ("MemAvailable: 4 kB", [], (4096, "this host has free"), math.inf),
    ],
)
def test_room(
    host: str, limits: list[int], room: tuple[int, str], hard: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(host)
    monkeypatch.setattr(memory, "MEMORY_OF_HOST", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_group_limits", lambda: limits)
    assert memory.room() == room
    assert memory.hard_limit() == hard


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
    (tmp_path / "cgroup").write_text(line + "\n")
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert memory._group_quotas(tmp_path / "cgroup", tmp_path / "fs") == found


@pytest.mark.parametrize(("quotas", "cpus"), [([], 8), ([2.9], 2), ([0.5], 1), ([64.0, 3.0], 3)])
def test_cpus_are_whole_and_one_at_least(quotas: list[float], cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(memory, "_group_quotas", lambda: quotas)
    assert memory.host_cpus() == cpus


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert memory._group_limits(tmp_path / "none", tmp_path) == []
    assert memory._group_quotas(tmp_path / "none", tmp_path) == []
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

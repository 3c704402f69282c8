"""Settings of torch and MKL, and the processors that they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ffpipe
from ffpipe.system.environment import prepare

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.parametrize(
    ("vendor", "before", "after"),
    [
        ("GenuineIntel", None, "AUTO,STRICT"),
        ("GenuineIntel", "COMPATIBLE", "COMPATIBLE"),
        ("AuthenticAMD", None, None),
    ],
)
def test_strict_on_intel_unless_told_otherwise(
    vendor: str, before: str | None, after: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "to be put back")
    monkeypatch.delenv("MKL_CBWR")
    if before is not None:
        monkeypatch.setenv("MKL_CBWR", before)
    processors = tmp_path / "cpuinfo"
    processors.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n", encoding="utf-8")
    prepare(processors)
    assert os.environ.get("MKL_CBWR") == after


@pytest.mark.parametrize(("told", "after"), [("Intel64 Family 6 Model 207, GenuineIntel", "AUTO,STRICT"), ("", None)])
def test_without_a_list_of_processors(
    told: str, after: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "to be put back")
    monkeypatch.delenv("MKL_CBWR")
    monkeypatch.setattr("platform.processor", lambda: told)
    prepare(tmp_path / "absent")
    assert os.environ.get("MKL_CBWR") == after


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_huge_pages_unless_told_otherwise(
    before: str | None, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "to be put back")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    if before is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", before)
    prepare(tmp_path / "absent")
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == after


@pytest.mark.skipif(not HUGE.exists() or "[never]" in HUGE.read_text(), reason="Linux gives no huge pages here")
def test_names_are_listed_before_they_are_imported() -> None:
    code = "import sys, ffpipe; print(*dir(ffpipe)); assert 'torch' not in sys.modules"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*ffpipe.__all__, "__doc__", "__file__"} <= set(names)
    assert not {"Any", "import_module", "prepare"} & set(names)


def test_torch_asks_for_huge_pages() -> None:
    """In a process of its own, since torch reads its environment once."""
    program = """
import re, ffpipe, torch
ones = torch.ones(1 << 25)
held = 0
for line in open("/proc/self/smaps"):
    if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
        start, end = (int(number, 16) for number in match.groups())
    elif line.startswith("VmFlags") and start <= ones.data_ptr() < end:
        held = "hg" in line.split()
print(held)
"""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    made = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "True"

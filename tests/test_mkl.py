"""What MKL is told, and on which processors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ffpipe.mkl import prepare_mkl


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
    prepare_mkl(processors)
    assert os.environ.get("MKL_CBWR") == after


def test_without_a_list_of_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AUTO,STRICT")
    prepare_mkl(tmp_path / "absent")

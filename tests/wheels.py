"""Wheels of what the tests run with, so that installing can be tried where there is no package index.

A wheel here has the name, version, requirements and programs of a package, and in place of its code lines that lead
to the code of this environment. pip resolves and installs as ever; torch is not copied.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

NOT_CODE = (".dist-info", ".egg-info", ".pth", "__pycache__")


def write_wheels(folder: Path) -> Path:
    """Write a wheel for every package of this environment but ffpipe; returns where they are."""
    wheels = folder / "wheels"
    wheels.mkdir()
    found: dict[str, Distribution] = {}
    for each in distributions():
        found.setdefault(re.sub(r"[-_.]+", "_", each.metadata["Name"]).lower(), each)
    del found["ffpipe"]
    # A folder for each place of packages: parts of one package may be in several.
    places = dict.fromkeys(Path(str(each.locate_file(""))) for each in found.values())
    lines = "".join(f"{_code(place, folder / f'code-{number}')}\n" for number, place in enumerate(places))
    for name, each in found.items():
        _write(wheels, name, each, lines)
    return wheels


def _code(place: Path, folder: Path) -> Path:
    """Make a folder that leads to the code of a place, and to nothing by which pip would know it."""
    folder.mkdir()
    for path in place.iterdir():
        if not path.name.endswith(NOT_CODE) and "__editable__" not in path.name:
            (folder / path.name).symlink_to(path)
    return folder


def _write(wheels: Path, name: str, given: Distribution, lines: str) -> None:
    stem = f"{name}-{given.version}"
    files = {
        f"{name}.pth": lines,
        f"{stem}.dist-info/METADATA": given.read_text("METADATA") or "",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if programs := given.read_text("entry_points.txt"):
        files[f"{stem}.dist-info/entry_points.txt"] = programs
    listed = [f"{path},{_digest(text)},{len(text.encode())}" for path, text in files.items()]
    record = f"{stem}.dist-info/RECORD"
    files[record] = "\n".join((*listed, f"{record},,")) + "\n"
    with zipfile.ZipFile(wheels / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"

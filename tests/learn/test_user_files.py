"""A file that defines a model is executed as Python would execute it by itself."""

from __future__ import annotations

from pathlib import Path

from ffpipe.learn.user_model import find, load

PLAIN = """\
from dataclasses import dataclass, fields

@dataclass
class Sizes:
    width: int = 3

def kind():
    return fields(Sizes)[0].type
"""


def test_annotations_are_what_the_file_says_they_are(tmp_path: Path) -> None:
    for name, source, kind in (
        ("plain", PLAIN, int),
        ("postponed", f"from __future__ import annotations\n{PLAIN}", "int"),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        assert load(find(f"{path}:kind"))() == kind

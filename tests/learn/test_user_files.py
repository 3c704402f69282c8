"""A file that defines a model is executed as Python would execute it by itself."""

from __future__ import annotations

from pathlib import Path

import torch
from user_code import write

from ffpipe.config.schema import Training
from ffpipe.learn.items import items_of
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


def test_a_function_finds_what_stands_beside_its_file(tmp_path: Path) -> None:
    """Imports in the function are made when it is called."""
    lazy = "def blocks():\n    from lazy_part import act\n    return [act()]\n"
    write(tmp_path, {"lazy_net.py": lazy, "lazy_part.py": "from torch import nn\nact = nn.ReLU\n"})
    name = f"{tmp_path / 'lazy_net.py'}:blocks"
    (item,) = items_of(Training(model=name), find(name), None, torch.device("cpu"))
    assert "ReLU" in str(item)

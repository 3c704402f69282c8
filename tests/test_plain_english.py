"""The check of the English of docstrings, comments and messages, on texts that break its rules and on others."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_english import faults


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('def f(x):\n    """Of the weights."""\n', [2, 2]),
        ('def f(x):\n    """Digest of the weights."""\n', [2]),
        ('def f(x):\n    """Return the digest. What is absent does not count."""\n', [2]),
        ('class C:\n    """What a run leaves."""\n', [2]),
        ("x = 1  # Where it begins.\n", [1]),
        ("x = 1\n\n# It is so. That\n# is why.\n", [3]),
        ('raise ValueError(f"What {1} is")\n', [1]),
        ("# It has" + " not the data.\n", [1]),
        ("# This is" + " no run.\n", [1]),
        ("# There is no run, and it is no longer there.\n", []),
        ('def f(x):\n    """Return the digest, of what there is."""\n', []),
        ('class C:\n    """The rest of a run. Where is it? See below."""\n', []),
        ('class C:\n    @property\n    def f(self):\n        """Digest of the weights."""\n', []),
        ('"""How far it may run."""\n', [1]),
        ('class C:\n    """Keeps what it is told."""\n', [2]),
        ('class C:\n    @property\n    def f(self):\n        """Over the last reports."""\n', [4]),
        ('def test_f():\n    """A digest has not changed."""\n', []),
        ('def __init__(self, x):\n    """x: a number."""\n', []),
    ],
)
def test_lines_that_break_a_rule(text: str, lines: list[int], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert [line for line, _ in faults(path)] == lines


def test_titles_of_recipes_are_nouns(tmp_path: Path) -> None:
    path = tmp_path / "recipes.py"
    path.write_text('def mnist():\n    """MNIST with hard negatives."""\n')
    assert not list(faults(path))

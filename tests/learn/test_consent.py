"""Consent to code that a run or a config names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from user_code import write

from ffpipe.learn.user_model import Consent, find

# The current folder is HERE.
CONSENT: list[tuple[str, str, bool]] = [
    ("my.nets:vgg", "my.nets:vgg", True),
    ("my.nets:vgg", "my.nets", True),
    ("my.nets:vgg", "my", True),
    ("my.nets:vgg", "m", False),
    ("my.nets:vgg", "my.net", False),
    ("my.nets:vgg", "my.nets:vgg16", False),
    ("my.nets:vgg", "my.nets.deep", False),
    ("my.nets:vgg", "nets", False),
    ("my.nets:vgg", "nets.py", False),
    ("my.nets:vgg", "", False),
    ("mynets:vgg", "my", False),
    ("HERE/nets.py:vgg", "nets.py:vgg", True),
    ("HERE/nets.py:vgg", "HERE/nets.py:vgg", True),
    ("HERE/nets.py:vgg", "HERE/nets.py", True),
    ("HERE/nets.py:vgg", "HERE/../x/nets.py", False),
    ("HERE/nets.py:vgg", "nets.py", True),
    ("HERE/nets.py:vgg", "./nets.py", True),
    ("HERE/nets.py:vgg", "nets", False),
    ("HERE/nets.py:vgg", "HERE", False),
    ("HERE/nets.py:vgg", "HERE/nets", False),
    ("HERE/nets.py:vgg", "nets.py:other", False),
    ("HERE/nets.py:vgg", "", False),
    ("/elsewhere/nets.py:vgg", "nets.py", True),
    ("/elsewhere/nets.py:vgg", "nets.py:vgg", False),
    ("/elsewhere/nets.py:vgg", "./nets.py", False),
    ("nets.py:vgg", "HERE/nets.py", True),
]


@pytest.mark.parametrize(("name", "allowed", "expected"), CONSENT)
def test_consent(name: str, allowed: str, expected: bool, here: Path) -> None:
    name, allowed = (text.replace("HERE", str(here)) for text in (name, allowed))
    assert Consent(frozenset({"other", allowed})).allows(name) is expected
    assert not Consent().allows(name)


def test_nothing_is_imported_without_consent(here: Path) -> None:
    marker = "open('marker', 'w').close()\nvgg = list\n"
    write(here, {"nets.py": marker, "umpack/__init__.py": marker, "umpack/nets.py": marker})
    for name, part in (("umpack.nets:vgg", "umpack.nets"), (f"{here}/nets.py:vgg", f"{here}/nets.py")):
        modules = dict(sys.modules)
        assert not Consent().allows(name)
        assert str(Consent().refuse(name, "run X")) == (
            f"run X names the code {name}, which is imported only if you say so: "
            f"give --model {name} or --allow-code {part}"
        )
        assert sys.modules == modules
        assert not (here / "marker").exists()
    find("nets.py:vgg")
    assert (here / "marker").exists()


def test_a_name_from_a_stranger_is_not_a_shell_command() -> None:
    message = str(Consent().refuse("x; rm -rf ~:f\nrun", "run X"))
    assert message.endswith("give --model 'x; rm -rf ~:f run' or --allow-code 'x; rm -rf ~'")

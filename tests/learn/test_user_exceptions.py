"""Exceptions of a user's own kinds while a model is found and called: one line each, whatever they are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from user_code import refused

from ffpipe.learn.items import call
from ffpipe.learn.user_model import find, load

BOOM = "class Boom(BaseException): ...\n"
SPEECHLESS = "class Boom(Exception):\n    def __str__(self):\n        raise ValueError('not even this')\n"
AT_IMPORT = {
    "a BaseException": (f"{BOOM}raise Boom('x')\n", "nets.py:2: Boom: x"),
    "an exception that cannot be printed": (f"{SPEECHLESS}raise Boom\n", "nets.py:4: Boom"),
    "a __getattr__ that raises": (
        "def __getattr__(name):\n    raise RuntimeError('lazy')\n",
        "nets.py:2: RuntimeError: lazy",
    ),
    "a __getattr__ that exits": ("import sys\ndef __getattr__(name):\n    sys.exit()\n", "nets.py:3: SystemExit"),
}


@pytest.mark.parametrize("kind", AT_IMPORT)
def test_at_import(kind: str, here: Path) -> None:
    source, says = AT_IMPORT[kind]
    (here / "nets.py").write_text(source)
    assert refused(lambda: find("nets.py:vgg")) == f"the model {here}/nets.py:vgg cannot be imported: {says}"


def test_a_module_s_getattr_that_knows_no_such_function(here: Path) -> None:
    (here / "nets.py").write_text("def vgg(): ...\ndef __getattr__(name):\n    raise AttributeError(name)\n")
    assert refused(lambda: find("nets.py:vvg")) == f"{here}/nets.py has no function 'vvg'; did you mean 'vgg'?"


def test_an_interrupt_passes(here: Path) -> None:
    (here / "nets.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        find("nets.py:vgg")


@pytest.mark.parametrize(("made", "says"), [(BOOM, "Boom: x"), (SPEECHLESS, "Boom")])
def test_in_the_function(made: str, says: str, here: Path) -> None:
    (here / "nets.py").write_text(f"{made}def vgg():\n    raise Boom('x')\n")
    line = len(made.splitlines()) + 2
    assert refused(lambda: call(load(find("nets.py:vgg")), {}, "vgg")) == f"vgg failed: nets.py:{line}: {says}"

"""Files of a user's code, and the one line that is said where something is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping
from pathlib import Path

import pytest

from ffpipe.system.errors import UserError


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def forget(folder: Path, before: Container[str] = ()) -> None:
    """Have modules of a folder imported anew, as in another process."""
    for name in list(sys.modules):
        if name not in before and str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def refused(action: Callable[[], object]) -> str:
    """Return the message of the UserError, which is one line, after which imports look where they looked before."""
    path = list(sys.path)
    with pytest.raises(UserError) as caught:
        action()
    assert sys.path == path
    message = str(caught.value)
    assert "\n" not in message
    return message

"""Calls of `ffpipe runs` and `ffpipe show`, for the tests of what they print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from strangers import bounded

from ffpipe.commands.cli import main

SCREEN = (24, 120)


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of a command that ends well within bounds, and has nothing for a terminal to obey."""
    capsys.readouterr()
    with bounded():
        assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines: list[str] = out.splitlines()
    assert all(line.isprintable() for line in lines)
    return lines


def as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads("\n".join(printed([*arguments, "--json"], capsys)))

"""The form in which a refused command must appear to a person."""

from __future__ import annotations

import pytest

from ffpipe.commands.cli import main


def refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], before: str = "") -> None:
    """Exit status 2 and one line on stderr that holds `says`, and nothing that a terminal would obey. before: on stdout
    until then."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert err.removesuffix("\n").isprintable()
    assert len(err) < 3000
    assert out == before

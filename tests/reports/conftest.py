"""A report of each of four small runs, which no test changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from reported import MAKERS, Reported

from ffpipe.reports import write_report


@pytest.fixture(scope="session")
def reported(_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reported]]:
    """The reports of all kinds of runs."""
    patch = pytest.MonkeyPatch()
    patch.delenv("FFPIPE_DATA", raising=False)
    base = tmp_path_factory.mktemp("reports")
    found = {}
    for kind, make in MAKERS.items():
        run, pictures = make(base), base / f"pictures-{kind}"
        report = write_report(run, base / f"{kind}.html", png=pictures, examples=150)
        found[kind] = Reported(run, report, sorted(pictures.glob("*.png")))
    yield found
    patch.undo()

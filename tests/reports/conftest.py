"""A report of each of four small runs, which no test changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from reported import MAKERS, Reported


@pytest.fixture(scope="session")
def reported(_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reported]]:
    """The reports of all kinds of runs."""
    patch = pytest.MonkeyPatch()
    patch.delenv("FFPIPE_DATA", raising=False)
    base = tmp_path_factory.mktemp("reports")
    yield {kind: Reported(kind, base) for kind in MAKERS}
    patch.undo()

"""The site is built without a warning, from here alone, and its references have all that the code has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from repository import REPOSITORY

import ffpipe
from ffpipe.commands.cli import COMMANDS
from ffpipe.config.fields import leaves
from ffpipe.config.schema import BlockConfig

pytest.importorskip("mkdocs", reason="mkdocs is not installed: the extra docs has it")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site strictly: broken links, anchors and pages that no menu names are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Fetched(HTMLParser):
    """Addresses that a browser fetches for a page: not the links that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        # A canonical address and the like are for machines to read.
        address = given.get("src") or (given.get("href") if tag == "link" and "stylesheet" in str(given) else None)
        if address:
            self.addresses.append(address)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    fetched = Fetched()
    for page in pages:
        fetched.feed(page)
    assert len(pages) > 20
    assert fetched.addresses
    assert not [address for address in fetched.addresses if "//" in address]
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not [
        address for style in styles for address in re.findall(r"(?:url\(|@import )[\"']?(https?:[^)\"']*)", style)
    ]


def words(site: Path, page: str) -> str:
    """Return the text of a page, without its marks."""
    return unescape(re.sub(r"<[^>]*>", "", (site / page).read_text(encoding="utf-8")))


def test_the_reference_has_every_field(site: Path) -> None:
    text = (site / "reference-config.html").read_text(encoding="utf-8")
    for leaf in (leaf for leaf in leaves() if len(leaf.path) > 1):
        _, _, rest = text.partition(f'<code>{".".join(leaf.path[:-1])}</code><a class="headerlink"')
        assert rest, f"no part {leaf.path[:-1]}"
        assert f"<td><code>{leaf.path[-1]}</code></td>" in rest.partition("<h2")[0], leaf.name
    blocks = text.partition("<code>[[training.blocks]]</code>")[2]
    assert all(f"<td><code>{leaf.path[-1]}</code></td>" in blocks for leaf in leaves(BlockConfig))


def test_the_reference_says_what_every_field_means(site: Path) -> None:
    text = " ".join(words(site, "reference-config.html").split())
    missing = [leaf.name for leaf in leaves() if " ".join(leaf.description.split()) not in text and len(leaf.path) > 1]
    assert not missing


def test_the_reference_has_every_command_and_name(site: Path) -> None:
    commands = (site / "reference-command-line.html").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"<code>ffpipe {name}</code>" not in commands]
    assert "<code>--memory-budget SIZE</code>" in commands
    names = (site / "reference-api.html").read_text(encoding="utf-8")
    assert not [name for name in ffpipe.__all__ if f">{name}<" not in names]
    assert "check_engines" in names

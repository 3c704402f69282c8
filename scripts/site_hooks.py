"""Additions to docs/ when mkdocs builds the site: pages from elsewhere in the repository, tables made from the code.

mkdocs calls the functions `on_*` (mkdocs.yml, `hooks`).
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from reference_pages import filled

REPOSITORY = Path(__file__).resolve().parent.parent
# Pages of the site that stand elsewhere in the repository, and pictures of theirs.
ELSEWHERE = {
    "index.md": "README.md",
    "launchers.md": "cluster/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "results/memory.png": "scripts/results/memory.png",
    "results/scaling.png": "scripts/results/scaling.png",
    "results/log.md": "scripts/results/LOG.md",
}
PLACES = {place: page for page, place in ELSEWHERE.items()}
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are elsewhere."""
    for page, place in ELSEWHERE.items():
        if (REPOSITORY / place).exists():
            files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Put tables in the places of their marks, and make links between files of the repository links of the site."""
    uri = page.file.src_uri
    place = ELSEWHERE.get(uri, f"docs/{uri}")
    return relinked("\n".join(filled(markdown)), place, uri, {file.src_uri for file in files})


def relinked(markdown: str, place: str, uri: str, known: set[str]) -> str:
    """Return the text of the file `place` as the page `uri`; what is not a page of the site is named without a link.

    known: the files of the site.
    """

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        found = PLACES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if found not in known:
            return f"{match['text']}" if (REPOSITORY / path).exists() else match[0]
        there = posixpath.relpath(found, posixpath.dirname(uri) or os.curdir)
        return f"{match['picture']}[{match['text']}]({there}{match['anchor'] or ''})"

    # Blocks of code are left alone.
    parts = re.split(r"(^```.*?^```\n?)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)

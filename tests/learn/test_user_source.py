"""Modules of the user's own that a network imports: found in the text, and held against what a run was begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
from user_code import forget, refused, write

from ffpipe.learn.user_model import changed, find, load
from ffpipe.learn.user_source import imported, read_source
from ffpipe.system.errors import UserError

pytestmark = pytest.mark.usefixtures("forgotten")

FILES = {
    "part.py": "import deeper\nimport net\n",
    "deeper.py": "import torch",
    "lazy.py": "",
    "pack/__init__.py": "from . import inner\n",
    "pack/inner.py": "from .side import x\nfrom ..part import y\n",
    "pack/side.py": "x = 1",
    "pack/alone.py": "",
    "space/there.py": "",
    "other.py": "",
    "broken.py": "import other\n(",
    "site-packages/installed.py": "",
    "net.py": "",
}
IMPORTS: list[tuple[str, list[str]]] = [
    ("", []),
    ("import os, torch.nn, json", []),
    ("import part", ["deeper", "part"]),
    ("import deeper as d", ["deeper"]),
    ("from deeper import *", ["deeper"]),
    ("def f():\n    import lazy", ["lazy"]),
    ("try:\n    import lazy\nexcept ImportError: ...", ["lazy"]),
    ("import pack", ["pack", "pack.inner", "pack.side"]),
    ("import pack.alone", ["pack", "pack.alone", "pack.inner", "pack.side"]),
    ("from pack import alone", ["pack", "pack.alone", "pack.inner", "pack.side"]),
    ("from space import there, nothing", ["space.there"]),
    ("import broken", ["broken"]),
    ("import net", []),
    ("import installed", []),
    ("(", []),
    (f"import {'a' * 5000}", []),
]


@pytest.mark.parametrize(("text", "names"), IMPORTS)
def test_what_a_file_imports(text: str, names: list[str], here: Path) -> None:
    write(here, FILES)
    assert list(imported(read_source(text.encode()).imports, "net", here)) == names


def test_a_relative_import_leads_to_the_package_above(here: Path) -> None:
    write(here, {"pack/__init__.py": "", "pack/sub/__init__.py": "", "pack/up.py": "", "pack/sub/beside.py": ""})
    for text, names in (
        ("from ..up import x", ["pack", "pack.up"]),
        ("from .. import up", ["pack", "pack.up"]),
        ("from . import beside", ["pack", "pack.sub", "pack.sub.beside"]),
        ("from ....up import x", []),
    ):
        assert list(imported(read_source(text.encode(), "pack.sub").imports, "pack.sub.own", here)) == names


def test_what_is_installed_is_not_held(here: Path) -> None:
    write(here, FILES)
    assert not imported(["installed"], "net", here / "site-packages")


# A network, its files, and the module of which the text decides what the network is.
NEIGHBOURS: list[tuple[str, dict[str, str], str]] = [
    ("net.py:f", {"net.py": "from part import f", "part.py": "f = list"}, "part"),
    ("net.py:f", {"net.py": "from part import f", "part.py": "from deep import f", "deep.py": "f = list"}, "deep"),
    ("usnet:f", {"usnet.py": "from uspart import f", "uspart.py": "f = list"}, "uspart"),
    ("uspack.net:f", {"uspack/__init__.py": "f = list", "uspack/net.py": "from . import f"}, "uspack"),
    (
        "uspack.net:f",
        {"uspack/__init__.py": "", "uspack/net.py": "from .part import f", "uspack/part.py": "f = list"},
        "uspack.part",
    ),
    ("uspack:f", {"uspack/__init__.py": "from .part import f", "uspack/part.py": "f = list"}, "uspack.part"),
]


def place_of(module: str, folder: Path) -> Path:
    """Return the file of a module."""
    names = (f"{module.replace('.', '/')}.py", f"{module}/__init__.py")
    return next(folder / name for name in names if (folder / name).exists())


@pytest.mark.parametrize(("name", "files", "changes"), NEIGHBOURS)
def test_a_neighbour_that_changes(name: str, files: dict[str, str], changes: str, here: Path) -> None:
    write(here, files)
    begun = find(name)
    of_before = f"{begun.sha256} {begun.meaning}"
    assert f" {changes}=" in begun.recorded
    path = place_of(changes, here)
    text = path.read_text()

    def now() -> None:
        forget(here)
        changed(find(name), begun.recorded, "run 3")

    now()
    path.write_text(f"# a comment\n{text}\n\n")
    now()
    path.write_text(text.replace("list", "tuple"))
    with pytest.raises(
        UserError, match=rf"the source of {changes}, which .*:f imports, has changed since run 3 was begun"
    ):
        now()
    changed(find(name), of_before, "run 3")
    changed(find(name), begun.sha256, "run 3")


@pytest.mark.parametrize(("name", "files", "changes"), NEIGHBOURS)
def test_a_stage_that_is_made_later_gets_no_other_neighbour(
    name: str, files: dict[str, str], changes: str, here: Path
) -> None:
    write(here, files)
    begun = find(name)
    path = place_of(changes, here)
    text = path.read_text()
    path.write_text(text.replace("list", "tuple"))
    assert load(begun) is list  # a process that has imported it goes on with that
    forget(here)
    says = f"the source of {changes}, which {begun.name} imports, has changed or differs on this host: in {here} it has"
    assert refused(lambda: load(begun)).startswith(says)
    forget(here)
    path.write_text(f"# a comment\n{text}")
    assert load(begun) is list


def test_a_neighbour_that_another_host_does_not_have_is_not_held(here: Path) -> None:
    write(here, {"net.py": "from json import loads\nimport uslazy", "uslazy.py": ""})
    begun = find("net.py:loads")
    forget(here)
    (here / "uslazy.py").unlink()
    assert "No module named 'uslazy'" in refused(lambda: load(begun))


def test_a_neighbour_that_is_gone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, {"net.py": "from uspart import f", "uspart.py": "f = list"})
    begun = find("net.py:f")
    forget(here)
    (here / "elsewhere").mkdir()
    (here / "uspart.py").rename(here / "elsewhere" / "uspart.py")
    monkeypatch.syspath_prepend(here / "elsewhere")
    with pytest.raises(
        UserError, match=r"net\.py:f does not find the module uspart in its folder, as it did when run 3"
    ):
        changed(find("net.py:f"), begun.recorded, "run 3")


def test_a_file_is_moved_with_its_neighbours(here: Path) -> None:
    write(here, {"net.py": "from uspart import f", "uspart.py": "f = list"})
    begun = find("net.py:f")
    write(here / "moved", {"my net.py": "from uspart import f", "uspart.py": "f = list"})
    forget(here)
    now = find("moved/my net.py:f")
    assert now.recorded == begun.recorded
    changed(now, begun.recorded, "run 3")

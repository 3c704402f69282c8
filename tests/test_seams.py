"""The tests replace hardly anything of ffpipe by its name: what they are to see, or to break, is given to them."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parent
MOST = 5
# They load modules of scripts/ by their paths, and replace what is in these.
OF_SCRIPTS = ("test_five_digits_table.py", "test_reproduce.py", "test_scaling.py")
# Calls of pytest's, of unittest's and of Python's own.
REPLACING = re.compile(r"(.*\.)?(setattr|delattr|setitem|delitem|patch(\.object|\.dict|\.multiple)?)")
UNSEEN = "of unknown origin: "
EXAMPLE = """
import sys
import torch
from unittest import mock
from ffpipe.commands import cli
from ffpipe.system import memory
from ffpipe.storage.store import Store

store = Store("here")
self.store = store
monkeypatch.setattr(memory, "STATUS", None)
monkeypatch.setattr("ffpipe.runs.folder.versions", dict)
monkeypatch.setitem(cli.COMMANDS, "train", None)
mock.patch.object(Store, "write")
mock.patch("ffpipe.storage.store.Store.read")
setattr(Store, "remove", None)
Store.exists = None
monkeypatch.setattr(store, "root", "there")
monkeypatch.setattr(sys, "argv", [])
monkeypatch.setattr(torch, "mm", None)
monkeypatch.setattr("ffpipe.reports.report.time.sleep", None)
mock.patch("os.fsync")
"""


def test_hardly_anything_is_replaced() -> None:
    files = [path for path in sorted(TESTS.rglob("*.py")) if path.name not in OF_SCRIPTS]
    found = [f"{path.relative_to(TESTS)}:{line}: {what}" for path in files for line, what in ours(path.read_text())]
    assert len(found) <= MOST, "\n".join(["give what is replaced as an argument, or make the fault a real one", *found])


def test_what_counts() -> None:
    assert [what for _, what in sorted(ours(EXAMPLE))] == [
        "ffpipe.system.memory.STATUS",
        "ffpipe.runs.folder.versions",
        "ffpipe.commands.cli.COMMANDS.train",
        "ffpipe.storage.store.Store.write",
        "ffpipe.storage.store.Store.read",
        "ffpipe.storage.store.Store.remove",
        "ffpipe.storage.store.Store.exists",
        f"{UNSEEN}store.root",
    ]


def ours(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of what a file replaces of ffpipe, or of a thing of which the file does not show whose it
    is."""
    tree = ast.parse(source)
    imported = dict(_imports(tree))
    for line, owner, name in _replacements(tree, imported):
        first, *rest = owner.split(".")
        if first in imported:
            owner = ".".join([imported[first], *rest])
        elif first not in ("ffpipe", *sys.stdlib_module_names):
            yield line, f"{UNSEEN}{owner}.{name}"
        if owner.startswith("ffpipe.") and _is_ours(owner):
            yield line, f"{owner}.{name}"


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that are imported, with what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((each.asname or each.name, f"{node.module}.{each.name}") for each in node.names)
        elif isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.split(".")[0]
                yield (each.asname, each.name) if each.asname else (first, first)


def _replacements(tree: ast.AST, imported: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the owner and the name of each attribute or item that is replaced."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and REPLACING.fullmatch(ast.unparse(node.func)):
            first, *rest = node.args
            if isinstance(first, ast.Constant):
                owner, _, name = str(first.value).rpartition(".")
            else:
                owner, name = ast.unparse(first), ast.unparse(rest[0]).strip("'") if rest else "?"
            yield node.lineno, owner, name
        elif isinstance(node, ast.Assign):
            attributes = (target for target in node.targets if isinstance(target, ast.Attribute))
            owners = ((ast.unparse(target.value), target.attr) for target in attributes)
            yield from ((node.lineno, *each) for each in owners if each[0].split(".")[0] in imported)


def _is_ours(path: str) -> bool:
    """Tell whether what a path leads to is ffpipe's own, and not what it has imported from elsewhere."""
    found = pkgutil.resolve_name(path)
    home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", "ffpipe")
    return str(home).split(".")[0] == "ffpipe"

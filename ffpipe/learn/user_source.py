"""The source of a user's network: its digests, and the modules of the user's own that it imports.

Nothing is executed here: imports are found in the text, also in functions and in branches that are not taken.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ffpipe.system.files import read_whole

# A module that a network imports does not travel, but its text is read as a whole.
_LARGEST_IMPORTED = 16 << 20
_LIBRARIES = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[1])}


@dataclass(frozen=True)
class Source:
    """The text of a module: its digest, the one of its meaning, and the names of modules that it may import. meaning:
    digest without comments and white space; empty where the text cannot be parsed."""

    sha256: str
    meaning: str
    imports: tuple[str, ...]

    def recorded(self, name: str) -> str:
        """Return the word by which a run keeps a module."""
        return f"{name}={','.join(filter(None, (self.sha256, self.meaning)))}"


def digest(data: bytes) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(data).hexdigest()


def read_source(data: bytes, package: str = "") -> Source:
    """Work out what is to be known of a text. package: where its relative imports begin."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings, which come when it is executed
            tree = ast.parse(data)
            # A string of the user's may have a lone surrogate, which plain UTF-8 refuses.
            meaning = digest(ast.dump(tree).encode("utf-8", "surrogatepass"))
    # The last two are how Python's parser ends on text that is nested too deeply.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Source(digest(data), "", ())
    return Source(digest(data), meaning, tuple(dict.fromkeys(_imports(tree, package))))


def imported(names: Iterable[str], own: str, root: Path) -> dict[str, Source]:
    """Find the user's own modules below a folder that import statements lead to, and those that these lead to.

    names: modules in these statements, which may be elsewhere. own: the module that has the statements, which is left
    out. Returns them by name. Raises UserError for one that cannot be read.
    """
    found: dict[str, Source] = {}
    # Modules may import each other in a circle, and the network's own file.
    seen, waiting = {own}, list(names)
    while waiting:
        for name in lineage(waiting.pop()):
            if name not in seen and (source := located(name, root)) is not None:
                found[name] = source
                waiting += source.imports
            seen.add(name)
    return dict(sorted(found.items()))


def lineage(module: str) -> list[str]:
    """Return the packages of a module, the outermost first, and the module."""
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def is_users(module: str, file: str) -> bool:
    """Return whether a module is a user's and not a library's, by its name and its file."""
    return not (
        file.startswith("<")
        or module.partition(".")[0] == "torch"  # which may run from a folder that it was built in
        or {"site-packages", "dist-packages"} & set(Path(file).parts)
        or any(Path(file).is_relative_to(folder) for folder in _LIBRARIES)
    )


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = lineage(package) if package else []
            if node.level > len(above):  # which fails when it is executed
                continue
            # One dot is the package itself.
            base = ".".join(filter(None, [above[-node.level] if node.level else "", node.module]))
            # A name that is imported from a package may be a module of it.
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def located(name: str, root: Path) -> Source | None:
    """Read the module of this name below a folder; None where there is none, or a library's."""
    place = root.joinpath(*name.split("."))
    for path, package in (
        # A package comes first, as when it is imported.
        (place / "__init__.py", name),
        (place.with_name(f"{place.name}.py"), name.rpartition(".")[0]),
    ):
        if os.path.isfile(path) and is_users(name, str(path)):
            return read_source(read_whole(path, _LARGEST_IMPORTED), package)
    return None

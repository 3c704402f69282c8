"""Model functions of users: found by name, imported only with consent, shipped as source.

This is the only place that executes a user's source. It must know nothing of blocks, and does without torch. Whatever
goes wrong in the user's code becomes one line that names the file and the line.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import os
import re
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ffpipe.learn.user_source import digest, imported, is_users, lineage, located, read_source
from ffpipe.system.errors import RunFailed, UserError, nearest, one_line
from ffpipe.system.files import expanded, read_whole

# A file travels to other hosts in one message, and a model is far smaller.
LARGEST_SOURCE = 1 << 20

_FORM = "package.module:function or path/to/file.py:function"
_MISSING = object()
# The neighbours of models by name, each with the digest of the text that this process has imported.
_imported: dict[str, str] = {}


@dataclass(frozen=True)
class ModelCode:
    """Plain data by which another process, on this host or another, finds the same model function.

    name: package.module:function or /whole/path/file.py:function. sha256: hexadecimal digest of the file that defines
    the module. source: text of a file.py, empty for a module. path_entry: folder of sys.path that a module came from,
    empty for a file.py. meaning: digest of the same source without comments and white space. neighbours: names and
    digests of the user's own modules that it imports, as runs keep them.
    """

    name: str
    sha256: str
    source: str
    path_entry: str
    meaning: str = field(default="", compare=False)
    neighbours: tuple[str, ...] = field(default=(), compare=False)

    @property
    def module(self) -> str:
        """The name under which the module stands in sys.modules; files of one path and text share one."""
        where = self.name.rpartition(":")[0]
        stem = re.sub(r"\W", "_", Path(where).stem)
        return f"_ffpipe_{stem}_{digest(f'{where}:{self.sha256}'.encode())[:12]}" if _is_file(where) else where

    @property
    def recorded(self) -> str:
        """The digests that a run keeps, of which that of the meaning differs between versions of Python."""
        return " ".join(filter(None, (self.sha256, self.meaning, *self.neighbours)))


@dataclass(frozen=True)
class Consent:
    """Names of code that the user has allowed: whole names, or their package, module or file."""

    names: frozenset[str] = frozenset()

    def allows(self, name: str) -> bool:
        """Return whether the user has allowed a name, which may be that of a file relative to the current folder."""
        name = _absolute(name)
        where = name.rpartition(":")[0]
        if _is_file(where):
            own = {name, where, os.path.basename(where)}
            return any(allowed in own or _absolute(allowed) in own for allowed in self.names)
        return any(allowed == name or f"{where}.".startswith(f"{allowed}.") for allowed in self.names)

    def refuse(self, name: str, where: str) -> UserError:
        """Make the error for code that `where` (such as "run 3") names and the user has not allowed."""
        # The name may be a stranger's, and the line invites to paste it into a shell.
        given, (module, _, function) = f"{where} names the code {name}, which is imported", name.rpartition(":")
        if module == "__main__":
            return UserError(f"{given} by the file of the program that began it alone: give --model FILE.py:{function}")
        whole, part = shlex.quote(name), shlex.quote(module or name)
        return UserError(f"{given} only if you say so: give --model {whole} or --allow-code {part}")


def find(name: str) -> ModelCode:
    """Import the module or execute the file that a name gives, and return the way to find it again.

    A module is looked for in the current folder first. One that this process has imported before is not imported
    again, as everywhere in Python. Raises UserError: no such name, source that cannot be read or has more than
    LARGEST_SOURCE bytes, an exception while it is executed.
    """
    if not all(name.rpartition(":")):
        raise UserError(f"the model {name!r} does not have the form {_FORM}")
    name = _absolute(name)
    where = name.rpartition(":")[0]
    if _is_file(where):
        data = _read(where)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"cannot read {where}: it is not UTF-8 text") from None
        source, root, path_entry = read_source(data), Path(where).parent, ""
        others = imported(source.imports, Path(where).stem, root)
    else:
        with _searching(os.getcwd()):
            origin = _origin(name)
        root = _root(where, origin)
        source = read_source(_read(str(origin)), where if origin.name == "__init__.py" else where.rpartition(".")[0])
        others, text, path_entry = imported((*lineage(where), *source.imports), where, root), "", str(root)
    neighbours = tuple(each.recorded(module) for module, each in others.items())
    code = ModelCode(name, source.sha256, text, path_entry, source.meaning, neighbours)
    load(code)
    return code


def load(code: ModelCode) -> Callable[..., Any]:
    """Return the function that `find` found in another process; a file.py is executed from the shipped source. Raises
    UserError as `find` does, and, before it imports the module, where the source on this host is another, or that of a
    module of the user's own that it is about to import."""
    where, _, attribute = code.name.rpartition(":")
    shipped, before = _is_file(where), set(sys.modules)
    # Neighbours of a file are not shipped: those that this host has are found.
    with searching(code):
        origin = where if shipped else str(_origin(code.name))
        found = digest(code.source.encode() if shipped else _read(origin))
        if found != code.sha256:
            raise UserError(
                f"the source of {code.name} has changed or differs on this host: {origin} has the SHA-256 "
                f"{found[:12]} and not {code.sha256[:12]}; give every host the same file"
            )
        _refuse_other_neighbours(code, Path(where).parent if shipped else _root(where, Path(origin)), before)
        with of_users(f"the model {code.name} cannot be imported", code.module):
            module = _executed(code) if shipped else importlib.import_module(where)
            function = getattr(module, attribute, _MISSING)  # a module's own __getattr__ may raise
    if function is _MISSING:
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{where} has no function {attribute!r}{_hint(attribute, functions)}")
    return typing.cast(Callable[..., Any], function)


def _refuse_other_neighbours(code: ModelCode, root: Path, before: Container[str]) -> None:
    """Raise UserError where a neighbour in the folder `root` of this host is another than the one that `find` read.
    before: modules that this process had imported, whose text may have changed since then and does not matter."""
    for name, _, recorded in (word.partition("=") for word in code.neighbours):
        here = None if name in before else located(name, root)
        if here is not None and not _agree(recorded, found := here.recorded(name).partition("=")[2]):
            raise UserError(
                f"the source of {name}, which {code.name} imports, has changed or differs on this host: in {root} it "
                f"has the SHA-256 {found[:12]} and not {recorded[:12]}; put it back as it was, or give every host the "
                "same file"
            )


@contextmanager
def searching(code: ModelCode) -> Iterator[None]:
    """Have imports look in the folder of the user's code first."""
    where = code.name.rpartition(":")[0]
    with _searching(os.path.dirname(where) if _is_file(where) else code.path_entry):
        yield


def refuse_stale(code: ModelCode) -> None:
    """Raise UserError for a module beside the code of which this process has imported another text: it would get that
    one, as Python imports no module twice."""
    for word in code.neighbours:
        name = word.partition("=")[0]
        if name in sys.modules and _imported.setdefault(name, word) != word:
            raise UserError(
                f"{code.name} imports {name}, of which this process has imported another text before: begin a new "
                "process, or give one of the two another name"
            )


def changed(code: ModelCode, recorded: str, where: str) -> None:
    """Raise UserError if the source is not the one that `where` (such as "run 3") was begun with.

    recorded: what `ModelCode.recorded` was then; runs of before have fewer digests, and only what they have is held
    against the source. Other comments and white space are not a change.
    """
    words = recorded.split()
    if not {code.sha256, code.meaning} & set(words):
        raise UserError(
            f"the source of {code.name} has changed since {where} was begun (SHA-256 {recorded[:12]} then, "
            f"{code.sha256[:12]} now): put it back as it was, or begin a new run"
        )
    now = dict(word.split("=") for word in code.neighbours)
    for name, _, then in (word.partition("=") for word in words if "=" in word):
        if name not in now:
            raise UserError(
                f"{code.name} does not find the module {name} in its folder, as it did when {where} was begun: put it "
                "there, or begin a new run"
            )
        if not _agree(then, now[name]):
            raise UserError(
                f"the source of {name}, which {code.name} imports, has changed since {where} was begun (SHA-256 "
                f"{then[:12]} then, {now[name][:12]} now): put it back as it was, or begin a new run"
            )


@contextmanager
def of_users(what: str, package: str = "") -> Iterator[None]:
    """Raise UserError, which begins with `what`, for any exception of a user's code. package: one whose files are the
    user's wherever they are."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script may end with sys.exit, a package have a BaseException of its own
        raise UserError(f"{what}: {describe_error(error, package)}") from error


def describe_error(error: BaseException, package: str = "") -> str:
    """Say in one line where in the user's files an exception came from, its type and its message.

    The place is that of the innermost frame outside torch, ffpipe, the standard library and site-packages (but for
    `package`): "nets.py:12: ValueError: message". Without such a frame there is no place.
    """
    place, top = "", package.partition(".")[0]
    for frame, line in traceback.walk_tb(error.__traceback__):
        name, file = frame.f_globals.get("__name__") or "", frame.f_code.co_filename
        if (top and name.partition(".")[0] == top) or is_users(name, file):
            # As many parts of the path as the module's name has say enough, and are the same on every host.
            parts = name.count(".") + 1 + (Path(file).name == "__init__.py")
            place = f"{Path(*Path(file).parts[-parts:])}:{line}: "
    message = ""
    with suppress(Exception):  # a user's exception may raise another one in its __str__
        message = str(error)
    # A file that cannot be parsed has no frame: its place is in the exception.
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        place, message = f"{Path(error.filename).name}:{error.lineno}: ", error.msg
    if isinstance(error, (UserError, RunFailed)) and message:  # one of our own lines
        return one_line(f"{place}{message}")
    return one_line(f"{place}{type(error).__name__}: {message}" if message else f"{place}{type(error).__name__}")


def _agree(digests: str, others: str) -> bool:
    """Return whether two modules, as runs keep them, are of one text or of one meaning."""
    return bool(set(digests.split(",")) & set(others.split(",")))


def _root(where: str, origin: Path) -> Path:
    """Return the entry of sys.path that a module came from: its file lies as many folders below as it has packages."""
    return origin.parents[where.count(".") + (origin.name == "__init__.py")]


def _is_file(where: str) -> bool:
    return where.endswith(".py") or os.sep in where


def _absolute(name: str) -> str:
    """Return a name, with or without its function, with the path of a file made absolute."""
    where, colon, function = name.rpartition(":") if ":" in name else (name, "", "")
    return os.path.abspath(expanded(where)) + colon + function if _is_file(where) else name


def _read(path: str) -> bytes:
    if not path.endswith(".py"):
        raise UserError(f"the model file {path} does not end in .py: give {_FORM}")
    try:
        return read_whole(Path(path), LARGEST_SOURCE)
    except FileNotFoundError:
        names = sorted(file.name for file in Path(path).parent.glob("*.py"))
        raise UserError(f"there is no file {path}{_hint(os.path.basename(path), names)}") from None


def _hint(given: str, allowed: Sequence[str]) -> str:
    return f"; {nearest(given, allowed)}" if allowed else ""


@contextmanager
def _searching(folder: str) -> Iterator[None]:
    """Have imports look in a folder first."""
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # finders list a folder once, and the file may be new
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(folder)


def _origin(name: str) -> Path:
    """Find the source file of a module; its packages are imported for that, the module itself is not."""
    where = name.rpartition(":")[0]
    if not all(part.isidentifier() for part in where.split(".")):
        raise UserError(f"the model {name!r}: {where!r} cannot be the name of a module; give {_FORM}")
    unread = UserError(f"the model {name}: the source of {where} cannot be read: give a module that is a .py file")
    if where == "__main__":  # which is another module in every process
        raise unread
    spec = None
    with of_users(f"the model {name} cannot be imported", where):
        try:
            spec = importlib.util.find_spec(where)
        except ModuleNotFoundError as error:
            if not f"{where}.".startswith(f"{error.name}."):  # a package's own import
                raise
    if spec is None:
        raise UserError(f"the model {name}: there is no module {where} in this Python environment or in {sys.path[0]}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise unread
    return Path(spec.origin).absolute()


def _executed(code: ModelCode) -> ModuleType:
    """Execute the shipped source of a file, or return the module that it has become before."""
    name, path = code.module, code.name.rpartition(":")[0]
    if name not in sys.modules:
        # Before it is executed, as import does it: dataclasses, for one, look their module up there.
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = path
        # inspect and tracebacks find the text here where the file is not.
        linecache.cache[path] = (len(code.source), None, code.source.splitlines(keepends=True), path)
        try:
            # Without the __future__ imports of this module, which compile would hand on.
            exec(compile(code.source.encode(), path, "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]

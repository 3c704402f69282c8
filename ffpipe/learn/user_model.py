"""Model functions of users: found by name, imported only with consent, shipped as source, checked and called.

This is the only place that executes a user's source. It must know nothing of blocks: whoever asked for the items makes
blocks of them. Whatever goes wrong in the user's code becomes one line that names the file and the line.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import shlex
import sys
import sysconfig
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.abc import ExecutionLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ffpipe.learn.model_options import bound
from ffpipe.system.errors import UserError, nearest, one_line
from ffpipe.system.files import expanded, read_whole

# A file travels to other hosts in one message, and a model is far smaller.
LARGEST_SOURCE = 1 << 20

T = TypeVar("T")

_FORM = "package.module:function or path/to/file.py:function"
_RETURN = "return a list of blocks, torch modules or callables that make one"
_LIBRARIES = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[1])}


@dataclass(frozen=True)
class ModelCode:
    """Plain data by which another process, on this host or another, finds the same model function.

    name: package.module:function or /whole/path/file.py:function. sha256: hexadecimal digest of the file that defines
    the module. source: text of a file.py, empty for a module. path_entry: folder of sys.path that a module came from,
    empty for a file.py.
    """

    name: str
    sha256: str
    source: str
    path_entry: str


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
        whole, part = shlex.quote(name), shlex.quote(name.rpartition(":")[0] or name)
        return UserError(
            f"{where} names the code {name}, which is imported only if you say so: "
            f"give --model {whole} or --allow-code {part}"
        )


def find(name: str) -> ModelCode:
    """Import the module or execute the file that a name gives, and return the way to find it again.

    A module is looked for in the current folder first. One that this process has imported before is not imported
    again, as everywhere in Python. Raises UserError: no such name, source that cannot be read or has more than
    LARGEST_SOURCE bytes, an exception while it is executed. Nothing of the user's stays imported then.
    """
    if not all(name.rpartition(":")):
        raise UserError(f"the model {name!r} does not have the form {_FORM}")
    name = _absolute(name)
    where = name.rpartition(":")[0]
    if _is_file(where):
        try:
            source = _read(where).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"cannot read {where}: it is not UTF-8 text") from None
        code = ModelCode(name, _digest(source.encode()), source, "")
        with _searching(os.path.dirname(where)):
            _function(_executed(code), code)
        return code
    folder = os.getcwd()
    with _searching(folder):
        origin = _origin(name, folder)
        code = ModelCode(name, _digest(_read(origin)), "", _path_entry(where, origin))
        _function(_imported(where, name), code)
    return code


def load(code: ModelCode) -> Callable[..., Any]:
    """Return the function that `find` found in another process; a file.py is executed from the shipped source.

    Raises UserError as `find` does, and, before it imports the module, where the source on this host is another.
    """
    where = code.name.rpartition(":")[0]
    if _is_file(where):
        if _digest(code.source.encode()) != code.sha256:
            raise UserError(f"the source of {code.name} differs from its SHA-256 {code.sha256[:12]}: ship it again")
        # Neighbours of the file are not shipped: those that this host has are found.
        with _searching(os.path.dirname(where)):
            return _function(_executed(code), code)
    with _searching(code.path_entry):
        origin = _origin(code.name, code.path_entry)
        found = _digest(_read(origin))
        if found != code.sha256:
            raise UserError(
                f"the source of {code.name} has changed or differs on this host: {origin} has the SHA-256 "
                f"{found[:12]} and not {code.sha256[:12]}; give every host the same file"
            )
        return _function(_imported(where, code.name), code)


def changed(code: ModelCode, recorded_sha256: str, where: str) -> None:
    """Raise UserError if the source is not the one that `where` (such as "run 3") was begun with."""
    if code.sha256 != recorded_sha256:
        raise UserError(
            f"the source of {code.name} has changed since {where} was begun (SHA-256 {recorded_sha256[:12]} then, "
            f"{code.sha256[:12]} now): put it back as it was, or begin a new run"
        )


def call(
    function: Callable[..., Any], options: Mapping[str, Any], name: str, kinds: tuple[type, ...] = ()
) -> list[Any]:
    """Call a model function and return its items, each a torch module or another callable.

    options: keyword arguments; strings are converted to the annotated type where that is int, float, bool, a tuple or
    list of these ("1,2,3"), a Literal or a union of these; without an annotation, to the type of the default. A
    torch.nn.Sequential is taken apart. kinds: of items that are allowed beside these. Raises UserError, which calls
    the function `name`: options that do not fit the signature, an exception in the function, a result that is not a
    list of such items.
    """
    _refuse_unfit(function, name)
    arguments = bound(function, options, name)
    made = _users(partial(function, **arguments), f"{name} failed", _top(getattr(function, "__module__", None)))
    return _items(made, name, kinds)


def describe_error(error: BaseException, code: ModelCode | None = None) -> str:
    """Say in one line where in the user's files an exception came from, its type and its message.

    The place is that of the innermost frame outside torch, ffpipe, the standard library and site-packages (but for the
    package of `code`): "nets.py:12: ValueError: message". Without such a frame there is no place.
    """
    return _describe(error, "" if code is None else _top(_module_name(code)))


def _is_file(where: str) -> bool:
    return where.endswith(".py") or os.sep in where


def _absolute(name: str) -> str:
    """Return a name, with or without its function, with the path of a file made absolute."""
    where, colon, function = name.rpartition(":") if ":" in name else (name, "", "")
    return os.path.abspath(expanded(where)) + colon + function if _is_file(where) else name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
    """Have imports look in a folder too; after an exception, drop the user's modules that were imported in it."""
    path, modules = list(sys.path), set(sys.modules)
    added = os.path.isdir(folder) and folder not in map(os.path.abspath, path)
    if added:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()  # finders list a folder once, and the file may be new
    try:
        yield
    except BaseException:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            # Libraries stay: some with compiled parts cannot be imported twice in a process.
            if _is_users(name, _file(sys.modules[name])):
                del sys.modules[name]
        raise
    if added:
        with suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(folder)


def _origin(name: str, folder: str) -> str:
    """Return the source file of a module; its packages are imported for that, the module itself is not."""
    where, parent = name.rpartition(":")[0], ""
    if not all(part.isidentifier() for part in where.split(".")):
        raise UserError(f"the model {name!r}: {where!r} cannot be the name of a module; give {_FORM}")
    spec: ModuleSpec | None = None
    for part in where.split("."):
        full = f"{parent}.{part}" if parent else part
        places = getattr(sys.modules[parent], "__path__", None) if parent else [folder]
        if places is None:
            raise UserError(f"the model {name}: there is no module {full}: {parent} is not a package")
        try:
            spec = importlib.util.find_spec(full)
        except ValueError:  # a module that no finder made, such as a script's __main__
            raise _no_source(name, full) from None
        if spec is None:
            near = _hint(part, sorted(module.name for module in pkgutil.iter_modules(places)))
            at = f"in {parent}" if parent else f"in this Python environment or in {folder or 'the current folder'}"
            raise UserError(f"the model {name}: there is no module {full} {at}{near}")
        if full != where:
            _imported(full, name)
        parent = full
    # The name __main__ stands for another module in every process.
    if spec is None or spec.origin is None or not spec.origin.endswith(".py") or where == "__main__":
        raise _no_source(name, where)
    return os.path.abspath(spec.origin)


def _no_source(name: str, module: str) -> UserError:
    return UserError(f"the model {name}: the source of {module} cannot be read: give a module that is a .py file")


def _path_entry(where: str, origin: str) -> str:
    top = importlib.util.find_spec(where.partition(".")[0])
    places = [] if top is None else top.submodule_search_locations or [top.origin or ""]
    return next((os.path.dirname(p) for p in map(os.path.abspath, places) if Path(origin).is_relative_to(p)), "")


def _module_name(code: ModelCode) -> str:
    """Return the name under which a module stands in sys.modules; files of one path and text share one."""
    where = code.name.rpartition(":")[0]
    stem = re.sub(r"\W", "_", Path(where).stem)
    return f"_ffpipe_{stem}_{_digest(f'{where}:{code.sha256}'.encode())[:12]}" if _is_file(where) else where


class _Shipped(ExecutionLoader):
    """A loader of source that need not be in the file that it came from; inspect and linecache find it here."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_source(self, fullname: str) -> str:
        return self.source.removeprefix("\ufeff")


def _executed(code: ModelCode) -> ModuleType:
    where, name = code.name.rpartition(":")[0], _module_name(code)
    if name in sys.modules:
        return sys.modules[name]
    loader = _Shipped(where, code.source)
    spec = importlib.util.spec_from_file_location(name, where, loader=loader)
    assert spec is not None  # there is a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _users(partial(loader.exec_module, module), f"the model {code.name} cannot be imported", name)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _imported(module: str, name: str) -> ModuleType:
    return _users(partial(importlib.import_module, module), f"the model {name} cannot be imported", _top(module))


def _function(module: ModuleType, code: ModelCode) -> Callable[..., Any]:
    where, _, attribute = code.name.rpartition(":")
    try:
        function = getattr(module, attribute)
    except AttributeError:
        public = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
        own = [key for key, value in public.items() if getattr(value, "__module__", None) == module.__name__]
        raise UserError(f"{where} has no function {attribute!r}{_hint(attribute, own or list(public))}") from None
    _refuse_unfit(function, code.name)
    return typing.cast(Callable[..., Any], function)


def _refuse_unfit(function: object, name: str) -> None:
    if isinstance(function, _of_torch("Module")):
        raise UserError(f"{name} is a {type(function).__name__} and not a function: give a function that makes it")
    if not callable(function):
        raise UserError(f"{name} is of type {type(function).__name__} and not a function")


def _of_torch(kind: str) -> tuple[Any, ...]:
    """Return a class of torch.nn for isinstance; none before torch is imported, when nothing is of that class."""
    nn = sys.modules.get("torch.nn")
    return () if nn is None else (getattr(nn, kind),)


def _items(made: object, name: str, kinds: tuple[type, ...]) -> list[Any]:
    for sequential in _of_torch("Sequential"):
        if isinstance(made, sequential):
            if type(made).forward is not sequential.forward:
                raise UserError(f"{name} returned a {type(made).__name__} with a forward of its own: {_RETURN}")
            made = list(made)
    if made is None:
        raise UserError(f"{name} returned nothing: {_RETURN}")
    if not isinstance(made, list | tuple):
        raise UserError(f"{name} returned a value of type {type(made).__name__}: {_RETURN}")
    if not made:
        raise UserError(f"{name} returned an empty list: {_RETURN}")
    for index, item in enumerate(made):
        if not callable(item) and not isinstance(item, kinds):
            kind = type(item).__name__
            raise UserError(f"{name} returned a list whose item [{index}] is of type {kind}: {_RETURN}")
    return list(made)


def _users(action: Callable[[], T], what: str, top: str) -> T:
    """Run the user's code, and raise UserError that begins with `what` for any exception in it."""
    try:
        return action()
    except (Exception, SystemExit) as error:  # a script may end with sys.exit
        raise UserError(f"{what}: {_describe(error, top)}") from error


def _describe(error: BaseException, top: str) -> str:
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        name, file = frame.f_globals.get("__name__") or "", frame.f_code.co_filename
        if (top and _top(name) == top) or _is_users(name, file):
            # As many parts of the path as the module's name has say enough, and are the same on every host.
            parts = name.count(".") + 1 + (Path(file).name == "__init__.py")
            place = f"{Path(*Path(file).parts[-parts:])}:{line}: "
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        place, message = f"{Path(error.filename).name}:{error.lineno}: ", error.msg
    return one_line(f"{place}{type(error).__name__}: {message}" if message else f"{place}{type(error).__name__}")


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")


def _is_users(module: str, file: str) -> bool:
    """Return whether a module is a user's and not a library's, by its name and its file."""
    return not (
        not file
        or file.startswith("<")
        or _top(module) == "torch"  # which may run from a folder that it was built in
        or {"site-packages", "dist-packages"} & set(Path(file).parts)
        or any(Path(file).is_relative_to(folder) for folder in _LIBRARIES)
    )

"""Files that are read up to a bound and never waited for, and written whole or not at all.

Their contents are the caller's to check.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ffpipe.system.errors import Unreachable, UserError, reason, refuse_other, refusing

# The kinds of a path as a public function takes it.
PATH = (str, Path)
_FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def size_of(path: Path) -> int:
    """Return the size of a regular file, which is not opened: a named pipe that nobody writes to would hold that up.

    Raises UserError; Unreachable where that says nothing of the file; FileNotFoundError where there is none.
    """
    with _reached(path), refusing(f"cannot read {path}", ValueError):  # a name that no file can have
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = _FILE_KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise UserError(f"cannot read {path}: it is not a regular file, but {kind}")
    return found.st_size


def read_whole(path: Path, most: int) -> bytes:
    """Read a file of at most `most` bytes. Raises what `size_of` does."""
    data = b""
    if (size := size_of(path)) <= most:
        with _reached(path), path.open("rb") as file:
            data = file.read(most + 1)  # it may have grown, and files of /proc have no size
    if max(size, len(data)) > most:
        raise UserError(f"cannot read {path}: it has more than {most:,} bytes")
    return data


@contextmanager
def _reached(path: Path) -> Iterator[None]:
    """Turn errors that say nothing of a file into Unreachable; that it is absent says something."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreachable(f"cannot read {path}: {reason(error)}") from None


@contextmanager
def replacing(path: Path, mark: str = "") -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place once the block has written it, and vanishes if the block fails.
    mark: part of its name, where several processes may write `path` at once. Raises OSError."""
    # One name, so that what a process left that was killed here goes; "x" below would refuse it.
    temporary = path.with_name(f".{path.name}{mark}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # exclusively, so that no link that lies there is written through
            yield file
            # Before the file gets its name, or the name may outlast a loss of power and the bytes not.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a loss of power: else a manifest may, and files that it lists may not."""
    with suppress(OSError):  # some disks refuse it
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def expanded(path: str | Path) -> Path:
    """Replace ~ by the home folder that it stands for. Raises UserError where there is none, and for an empty name."""
    if not str(path):  # which would be the working folder
        raise UserError("the name of a file or a folder is empty: give one, or . for the working folder")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} begins with a home folder that is not known: give the whole path") from None


def names_of(paths: str | Path | Iterable[str | Path], field: str, instead: str) -> list[str]:
    """Return one path or several as text. Raises UserError for what is none. instead: what to give then."""
    found = [paths] if isinstance(paths, PATH) else paths
    refuse_other(found, Iterable, field, instead)
    names = []
    for each in found:
        refuse_other(each, PATH, field if each is paths else f"what {field} has", instead)
        names.append(str(each))
    return names


def new_file(given: str | Path) -> Path:
    """Return the path of a file that is to be written, before any work is done for it. Raises UserError where something
    is there already, or its folder is not."""
    path = expanded(given)
    # A link too, wherever it leads: the file would take its place.
    if os.path.lexists(path):
        raise UserError(f"{given} exists: give a new file")
    if not os.path.isdir(path.parent):
        raise UserError(f"{given} cannot be written: {path.parent} is not a folder")
    return path


def scheme_of(place: str) -> str:
    """Return the scheme of a URI, also of one with a slash too few; empty for a path."""
    # Else s3:/bucket would be a folder to be made here.
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", place)
    return found[1] if found else ""

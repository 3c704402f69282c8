"""A folder of files, on this machine or anywhere that pyarrow.fs reaches (s3://, gs://, hdfs://).

Files are written whole or not at all and read up to a bound. What is in them it does not know.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from ffpipe.config.schema import Config
from ffpipe.system.errors import Unreachable, UserError
from ffpipe.system.files import expanded

T = TypeVar("T")

# Seconds between tries of what a network or a disk may refuse for a moment.
PAUSES = (1.0, 4.0)
# What is as it is, however long one waits.
LASTING = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG")
}
# What a file is written from, one after the other.
Pieces = Iterable[bytes | memoryview]


class Refused(OSError):
    """A file that is not what was asked for."""


class Store:
    """root: a path, or a URI that pyarrow.fs knows. Plain data: it can be sent to any process.

    Raises UserError where the URI is of no known kind.
    """

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).absolute())
        self._connect()

    def _connect(self) -> None:
        if "://" not in self.root:
            self._files, self._base = fs.LocalFileSystem(), self.root
            return
        try:
            self._files, self._base = fs.FileSystem.from_uri(self.root)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ImportError) as error:
            raise UserError(f"{self.root} is no place for checkpoints: {str(error).splitlines()[0]}") from None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    @property
    def is_local(self) -> bool:
        return isinstance(self._files, fs.LocalFileSystem)

    @property
    def folder(self) -> Path | None:
        """The root, where it is on this machine."""
        return Path(self._base) if self.is_local else None

    def place(self, name: str) -> str:
        """The whole name of a file, for messages."""
        return f"{self.root}/{name}"

    def write(self, name: str, pieces: Pieces) -> None:
        """Whole or not at all: on a file system by renaming, in an object store by its nature. Raises OSError."""
        path = self._path(name)
        self._files.create_dir(str(PurePosixPath(path).parent), recursive=True)
        if not self.is_local:
            with self._files.open_output_stream(path) as stream:
                for piece in pieces:
                    stream.write(piece)
            return
        if Path(path).parent.is_symlink() and "/" in name:  # which leads out of the store
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(Path(path).parent))
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, name: str, most: int) -> bytes:
        """Raises OSError where it is absent, no regular file, or of more than `most` bytes, and Unreachable where that
        cannot be known: a disk or a network that fails for a while must not be taken for damage."""
        try:
            return self._read(name, most)
        except (Refused, FileNotFoundError):
            raise
        except OSError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise Unreachable(f"{self.place(name)} cannot be reached ({reason}): try again when it can") from None

    def _read(self, name: str, most: int) -> bytes:
        info = self._files.get_file_info(self._path(name))
        # Asked before it is opened: a named pipe would make us wait, and `read` allocates all that it is asked for.
        if info.type != fs.FileType.File:
            raise Refused("there is no such file")
        if info.size > most:
            raise Refused(f"it has {info.size:,} bytes, more than {most:,}")
        with self._files.open_input_stream(self._path(name)) as stream:
            data: bytes = stream.read(info.size)
            return data

    def exists(self, name: str) -> bool:
        return bool(self._files.get_file_info(self._path(name)).type == fs.FileType.File)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in the root that begin so, in order. Raises OSError where the root is no folder."""
        found = self._files.get_file_info(fs.FileSelector(self._base, allow_not_found=True))
        folders = [i for i in found if i.type == fs.FileType.Directory and i.base_name.startswith(prefix)]
        # Old folders are removed, but not what a link in a stranger's run points to.
        return sorted(i.base_name for i in folders if not (self.is_local and os.path.islink(i.path)))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.exists(name):
            self._files.delete_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""
        if self._files.get_file_info(self._path(name)).type == fs.FileType.Directory:
            self._files.delete_dir(self._path(name))

    def remove_empty(self) -> None:
        """Remove the root if it is a folder with nothing in it."""
        if self.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self._base)

    def remove_temporary(self, name: str) -> None:
        """Remove what writers that were killed left of files in a folder."""
        if self.is_local:
            for left in Path(self._path(name)).glob(".*.tmp"):
                left.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"


def whole_place(given: str) -> str:
    """A place that a person gave, with its home folder written out; empty stays empty. Raises UserError."""
    return given if "://" in given or not given else str(expanded(given).absolute())


def store_of(config: Config, run: Path) -> Store:
    """Where the snapshots of a run are. run: its folder. Raises UserError."""
    return Store(whole_place(config.execution.checkpoints) or str(run / "checkpoints"))


def patiently(work: Callable[[], T]) -> T:
    """Work on a store, tried again after a pause where that may help. Raises what it raised at last."""
    for pause in PAUSES:
        try:
            return work()
        except (OSError, Unreachable) as error:
            if getattr(error, "errno", None) in LASTING:
                raise
            time.sleep(pause)
    return work()

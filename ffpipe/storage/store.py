"""A folder of files, on this machine or in a store (places.py).

Files are written whole or not at all and read up to a bound. It does not know their contents.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import fs

from ffpipe.config.schema import Config
from ffpipe.system.errors import Unreachable, reason, refusing
from ffpipe.system.files import expanded, replacing, scheme_of
from ffpipe.system.places import SILENT_SECONDS, Place, keep, let_go

T = TypeVar("T")

# Seconds between tries of what a network or a disk may refuse for a moment.
PAUSES = (1.0, 4.0)
# Errors that stay however long one waits.
LASTING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}
# The parts that a file is written from, one after the other.
Pieces = Iterable[bytes | memoryview]


class Store:
    """root: a path, or a URI of one of SCHEMES. pauses, silence: seconds between tries, and for which it may be silent.
    Plain data: any process can get it. Raises UserError where the URI is of no such kind, or lacks what its kind
    needs."""

    def __init__(self, root: str, pauses: tuple[float, ...] = PAUSES, silence: float = SILENT_SECONDS) -> None:
        self.root = root if scheme_of(root) else str(Path(root).absolute())
        self.pauses, self.silence = pauses, silence
        with refusing(f"{root} is not a place for snapshots", (OSError, ImportError, ValueError)):
            self._at = Place(self.root, silence)
        self._files, self._base, self.is_local = self._at.files, self._at.path, self._at.is_local

    def __reduce__(self) -> tuple[type[Store], tuple[str, tuple[float, ...], float]]:
        # Each process opens the place anew, with the keys and the network of its own host.
        return Store, (self.root, self.pauses, self.silence)

    @property
    def folder(self) -> Path | None:
        """The root, where it is on this machine."""
        return Path(self._base) if self.is_local else None

    def place(self, name: str) -> str:
        """Return the whole name of a file, for messages."""
        return f"{self.root}/{name}"

    def write(self, name: str, pieces: Pieces) -> None:
        """Write a file whole or not at all: by renaming it, or as object stores do by their nature. Raises OSError.
        By HDFS a file that is replaced is absent for a moment: it cannot rename one over another."""
        path = self._path(name)
        if self.is_local and "/" in name and Path(path).parent.is_symlink():  # which leads out of a run that was sent
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(Path(path).parent))
        self._at.ask(lambda: self._files.create_dir(str(PurePosixPath(path).parent), recursive=True))
        if self.is_local:
            # A stage that was given up for dead may still write the same file from its own process.
            with replacing(Path(path), f".{os.getpid()}") as file:
                for piece in pieces:
                    file.write(piece)
            return
        # A name that no other writer has: HDFS refuses a second one until it has given up the first.
        begun = path
        if self._at.shows_unfinished:
            begun = str(PurePosixPath(path).with_name(f".{PurePosixPath(path).name}.{uuid.uuid4().hex}.tmp"))
        written, stream = 0, self._at.ask(lambda: keep(self._files.open_output_stream(begun)))
        for piece in pieces:
            written += len(piece)
            self._at.ask(partial(stream.write, piece), len(piece))
        # With time for all of it: a store may have kept the pieces until now.
        self._at.ask(stream.close, written)
        let_go(stream)  # not where anything failed before: what there is of it must not become a file
        if begun != path:
            self._at.ask(lambda: self._files.move(begun, path))

    def read(self, name: str, most: int) -> bytes:
        """Return the bytes of a file. Raises OSError where it is absent, not a regular file, or of more than `most`
        bytes, and Unreachable where that cannot be known: a disk or a network that fails for a while must not be taken
        for damage."""
        try:
            info = self._info(name)
            # Asked before it is opened: a named pipe would make us wait, and `read` allocates all that it is asked for.
            if info.type == fs.FileType.File and info.size <= most:
                return self._at.ask(lambda: self._content(name, info.size), info.size)
        except FileNotFoundError:
            raise
        except OSError as error:
            where = self.place(name)
            raise Unreachable(f"{where} cannot be reached ({reason(error)}): try again when it can") from None
        if info.type != fs.FileType.File:
            raise FileNotFoundError("there is no such file")
        raise OSError(f"it has {info.size:,} bytes, more than {most:,}")

    def exists(self, name: str) -> bool:
        """Say whether there is such a file. Raises OSError."""
        return bool(self._info(name).type == fs.FileType.File)

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders in the root that begin so, in order. Raises OSError where that is a file."""
        found = self._at.ask(lambda: self._files.get_file_info(fs.FileSelector(self._base, allow_not_found=True)))
        folders = [i for i in found if i.type == fs.FileType.Directory and i.base_name.startswith(prefix)]
        # Old folders are removed, but not what a link points to.
        return sorted(i.base_name for i in folders if not (self.is_local and os.path.islink(i.path)))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.exists(name):
            self._at.ask(lambda: self._files.delete_file(self._path(name)))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""
        if self._info(name).type == fs.FileType.Directory:
            self._at.ask(lambda: self._files.delete_dir(self._path(name)))

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
        elif self._at.shows_unfinished:
            for info in self._at.ask(lambda: self._files.get_file_info(fs.FileSelector(self._path(name)))):
                if fnmatch(info.base_name, ".*.tmp"):
                    self._at.ask(partial(self._files.delete_file, info.path))

    def with_retries(self, work: Callable[[], T]) -> T:
        """Work on the store, tried again after a pause where that may help. Raises what it raised at last."""
        # Twice only: whoever waits here holds up the reports of all stages.
        for pause in self.pauses:
            try:
                return work()
            except (OSError, Unreachable) as error:
                if getattr(error, "errno", None) in LASTING:
                    raise
                time.sleep(pause)
        return work()

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _info(self, name: str) -> fs.FileInfo:
        return self._at.ask(lambda: self._files.get_file_info(self._path(name)))

    def _content(self, name: str, size: int) -> bytes:
        with self._files.open_input_stream(self._path(name)) as stream:
            data: bytes = stream.read(size)
            return data


def whole_place(given: str) -> str:
    """Write out the home folder of a place that a person gave; empty stays empty. Raises UserError."""
    return given if scheme_of(given) or not given else str(expanded(given).absolute())


def store_of(config: Config, run: Path) -> Store:
    """Return the store of a run's snapshots. run: its folder. Raises UserError."""
    return Store(whole_place(config.execution.checkpoints) or str(run / "checkpoints"))

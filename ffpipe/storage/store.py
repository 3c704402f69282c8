"""A folder of files, on this machine or in one of the stores that pyarrow.fs reaches (SCHEMES).

Files are written whole or not at all and read up to a bound. What is in them it does not know. Whatever a store fails
with is an OSError here, and none is waited for without a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from ffpipe.config.schema import Config
from ffpipe.system.deadline import within
from ffpipe.system.errors import Unreachable, UserError, reason
from ffpipe.system.files import expanded, replacing, scheme_of

T = TypeVar("T")

# Seconds between tries of what a network or a disk may refuse for a moment.
PAUSES = (1.0, 4.0)
# What is as it is, however long one waits.
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
# What a file is written from, one after the other.
Pieces = Iterable[bytes | memoryview]

# Kinds of place, by the beginning of their URIs, and what messages call those that can refuse access.
SCHEMES = {
    "file": "the host",
    "s3": "S3",
    "gs": "Google Cloud Storage",
    "gcs": "Google Cloud Storage",
    "hdfs": "HDFS",
}
# Seconds that a store may be silent, beside those that its bytes take at the slowest rate.
SILENT_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 1 << 20
# Google's own policy is to try for a quarter of an hour.
RETRY_SECONDS = 10
REFUSED = re.compile(
    "ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|[Ss]tatus:? 40[13]|PERMISSION_DENIED|UNAUTHENTICATED|"
    "AccessControlException"
)


class Store:
    """root: a path, or a URI of one of SCHEMES. Plain data: it can be sent to any process.

    Raises UserError where the URI is of no such kind, or lacks what its kind needs.
    """

    def __init__(self, root: str) -> None:
        self._scheme = scheme_of(root)
        self.root = root if self._scheme else str(Path(root).absolute())
        self._files, self._base = fs.LocalFileSystem(), self.root
        self.is_local = self._scheme in ("", "file")
        if self._scheme:
            try:
                self._files, self._base = self._ask(partial(_from_uri, root, self._scheme))
            except (OSError, ImportError, ValueError) as error:
                raise UserError(f"{root} is no place for checkpoints: {reason(error)}") from None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    @property
    def folder(self) -> Path | None:
        """The root, where it is on this machine."""
        return Path(self._base) if self.is_local else None

    def place(self, name: str) -> str:
        """The whole name of a file, for messages."""
        return f"{self.root}/{name}"

    def write(self, name: str, pieces: Pieces) -> None:
        """Write a file whole or not at all: on a file system by renaming, in an object store by its nature.

        Raises OSError.
        """
        path = self._path(name)
        if self.is_local and "/" in name and Path(path).parent.is_symlink():  # which leads out of a run that was sent
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(Path(path).parent))
        self._ask(lambda: self._files.create_dir(str(PurePosixPath(path).parent), recursive=True))
        if self.is_local:
            # A stage that was given up for dead may still write the same file from its own process.
            with replacing(Path(path), f".{os.getpid()}") as file:
                for piece in pieces:
                    file.write(piece)
            return
        written, stream = 0, self._ask(lambda: self._files.open_output_stream(path))
        for piece in pieces:
            written += len(piece)
            self._ask(partial(stream.write, piece), len(piece))
        self._ask(stream.close, written)

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file. Raises OSError where it is absent, not a regular file, or of more than `most` bytes, and
        Unreachable where that cannot be known: a disk or a network that fails for a while must not be taken for damage.
        """
        try:
            info = self._info(name)
            # Asked before it is opened: a named pipe would make us wait, and `read` allocates all that it is asked for.
            if info.type == fs.FileType.File and info.size <= most:
                return self._ask(lambda: self._content(name, info.size), info.size)
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
        """Names of the folders in the root that begin so, in order. Raises OSError where the root is no folder."""
        found = self._ask(lambda: self._files.get_file_info(fs.FileSelector(self._base, allow_not_found=True)))
        folders = [i for i in found if i.type == fs.FileType.Directory and i.base_name.startswith(prefix)]
        # Old folders are removed, but not what a link points to.
        return sorted(i.base_name for i in folders if not (self.is_local and os.path.islink(i.path)))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.exists(name):
            self._ask(lambda: self._files.delete_file(self._path(name)))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""
        if self._info(name).type == fs.FileType.Directory:
            self._ask(lambda: self._files.delete_dir(self._path(name)))

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

    def _info(self, name: str) -> fs.FileInfo:
        return self._ask(lambda: self._files.get_file_info(self._path(name)))

    def _content(self, name: str, size: int) -> bytes:
        with self._files.open_input_stream(self._path(name)) as stream:
            data: bytes = stream.read(size)
            return data

    def _ask(self, work: Callable[[], T], size: int = 0) -> T:
        """Do something with the store that moves `size` bytes. Raises OSError, whatever the store failed with."""
        try:
            return work() if self.is_local else within(SILENT_SECONDS + size / SLOWEST_BYTES_PER_SECOND, work)
        except (pa.ArrowException, OSError) as error:
            if not self.is_local and REFUSED.search(str(error)):
                why = f"access was refused by {SCHEMES[self._scheme]} ({reason(error)})"
                raise PermissionError(errno.EACCES, why) from None
            if isinstance(error, OSError):
                raise
            raise OSError(reason(error)) from None


def _from_uri(uri: str, scheme: str) -> tuple[fs.FileSystem, str]:
    """Open the file system of a URI; returns it and the path there. Raises what pyarrow raises, or ValueError."""
    if scheme not in SCHEMES or "://" not in uri:
        raise ValueError("give a folder, or a URI that begins with s3://, gs://, hdfs:// or file://")
    if scheme in ("gs", "gcs") and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={RETRY_SECONDS}"
    files, base = fs.FileSystem.from_uri(uri)
    if not base.strip("/"):
        raise ValueError("it names no folder")
    return files, base


def whole_place(given: str) -> str:
    """A place that a person gave, with its home folder written out; empty stays empty. Raises UserError."""
    return given if scheme_of(given) or not given else str(expanded(given).absolute())


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

"""A file or a folder on this machine, or in one of the stores that pyarrow.fs reaches.

Whatever a store fails with is an OSError here, and none is waited for without a deadline.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from ffpipe.system.errors import reason
from ffpipe.system.files import scheme_of

T = TypeVar("T")

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
# Else the AWS library sends each part of a file in pieces with a sum at the end, which S3 servers of others answer with
# 411 (seen: Ceph 16). Snapshots have sums of their own. Whoever sets this in the environment has it as it is set.
S3_SUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
# pyarrow passes on the words of each store's library, as a rule without an errno: they alone tell of a refusal.
REFUSED = re.compile(
    "ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|[Ss]tatus:? 40[13]|PERMISSION_DENIED|UNAUTHENTICATED|"
    "AccessControlException"
)


class Place:
    """files: the file system. path: of the file or folder there. is_local: on this machine. shows_unfinished: whether a
    file is seen that is being written. Raises OSError, ImportError or ValueError where a URI is of no known kind, or
    lacks what its kind needs."""

    def __init__(self, name: str, silence: float = SILENT_SECONDS) -> None:
        """name: a whole path, or a URI of one of SCHEMES. silence: seconds for which a store may be silent."""
        self._silence = silence
        self.scheme = scheme_of(name)
        self.files, self.path = fs.LocalFileSystem(), name
        self.is_local = self.scheme in ("", "file")
        # Others have a file when its stream is closed, and of one that is not closed nothing.
        self.shows_unfinished = self.scheme == "hdfs"
        if self.scheme:
            self.files, self.path = self.ask(partial(_from_uri, name, self.scheme))

    def ask(self, work: Callable[[], T], size: int = 0) -> T:
        """Do something with the store that moves `size` bytes. Raises OSError, whatever the store failed with."""
        try:
            return work() if self.is_local else _within(self._silence + size / SLOWEST_BYTES_PER_SECOND, work)
        except (pa.ArrowException, OSError) as error:
            if not self.is_local and REFUSED.search(str(error)):
                why = f"access was refused by {SCHEMES[self.scheme]} ({reason(error)})"
                raise PermissionError(errno.EACCES, why) from None
            if isinstance(error, OSError):
                raise
            raise OSError(reason(error)) from None


def keep(stream: Any) -> Any:
    """Have a stream outlast all who hold it, until `let_go`.

    Arrow closes a stream that is dropped, and a store then takes what it has, be it nothing, for the whole file. One
    that was given up, or came too late for whoever asked for it, would put that over the file that a second try wrote.
    """
    # By its count of references: what a module keeps is dropped when the interpreter ends.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
    return stream


def let_go(stream: Any) -> None:
    """Take back what `keep` did, after the stream was closed."""
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(stream))


def _from_uri(uri: str, scheme: str) -> tuple[fs.FileSystem, str]:
    """Open the file system of a URI; returns it and the path there. Raises what pyarrow raises, or ValueError."""
    if scheme not in SCHEMES or "://" not in uri:
        raise ValueError("give a folder, or a URI that begins with s3://, gs://, hdfs:// or file://")
    if scheme in ("gs", "gcs") and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={RETRY_SECONDS}"
    if scheme == "s3":
        os.environ.setdefault(*S3_SUMS)
    files, base = fs.FileSystem.from_uri(uri)
    if not base.strip("/"):
        raise ValueError("it names no folder")
    return files, base


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return or raise what `work` does. Raises TimeoutError after `seconds`; the work is left to itself then."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # A thread, so that signals are obeyed meanwhile. Not of a pool: the interpreter would wait for that at its end.
    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # with a TimeoutError of its own
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"there was no answer for {seconds:.0f} s") from None

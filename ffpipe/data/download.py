"""One gzipped file from the first of several mirrors that hands out the right bytes, in bounded time.

A download that was cut off is continued, also from another mirror: the MD5 of the whole decides. This module must
not know which files there are or what they hold.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ffpipe.data.gzipped import md5
from ffpipe.system.errors import UserError, reason

# The bytes that gzip may add to those that it cannot compress; more than the file's size and this is another file.
_GZIP_OVERHEAD = 1 << 16


@dataclass(frozen=True)
class Remote:
    """A gzipped file that mirrors hold under `name`. md5 (hexadecimal) and size (bytes): of what is in it, or of the
    file itself where it is `packed`. No md5: any file of this size, or of any where size is 0."""

    name: str
    md5: str
    size: int
    packed: bool = False


@dataclass(frozen=True)
class Patience:
    """Limits on how long a mirror may take.

    timeout: seconds between two bytes. floor: bytes a second on average, once `grace` seconds have passed. report:
    seconds between two lines of progress.
    """

    timeout: float = 20.0
    grace: float = 20.0
    floor: float = 20_000.0
    report: float = 2.0


def fetch(
    remote: Remote, folder: Path, mirrors: Sequence[str], patience: Patience, progress: Callable[[str], None]
) -> Path:
    """Return the file in `folder`, downloaded unless it is there and right. Its MD5 has been checked.

    mirrors: base URLs, tried in turn. progress: takes lines of text. One of several processes downloads and the
    others wait. Raises UserError with every mirror's reason if none will do, and if `folder` cannot be written.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            # Under the lock: whoever waited for another's download finds it done.
            if target.exists() and not flaw_of(target, remote):
                return target
            for mirror in mirrors:
                url = f"{mirror.rstrip('/')}/{remote.name}"
                try:
                    download(url, part, remote, patience, progress)
                except (OSError, HTTPException, ValueError) as error:  # what a server, a network or an address can do
                    failures.append(f"{url}: {reason(error)}")
                else:
                    # Renamed only when its MD5 is right: a process that is killed leaves no wrong file under the name.
                    part.replace(target)
                    return target
    except OSError as error:
        raise UserError(f"cannot write {target}: {reason(error)}; FFPIPE_CACHE names another folder") from None
    raise UserError(
        f"cannot download {remote.name} from any mirror ({'; '.join(failures)}): "
        "give a folder with a local copy as --data-dir or FFPIPE_DATA"
    )


def download(url: str, part: Path, remote: Remote, patience: Patience, progress: Callable[[str], None]) -> None:
    """Make `part` the right file. If that fails, the part that is there may be continued. Raises what `_receive` does,
    and ValueError where the file is another."""
    start = part.stat().st_size if part.exists() else 0
    progress(f"{'continuing' if start else 'downloading'} {url}")
    _receive(url, start, part, remote, patience, progress)
    if flaw := flaw_of(part, remote):
        part.unlink(missing_ok=True)
        if not start:
            raise ValueError(f"wrong bytes: {flaw}")
        # The old part may be of another version of the file, or of another mirror's: once more from the start.
        download(url, part, remote, patience, progress)


def _receive(
    url: str, start: int, part: Path, remote: Remote, patience: Patience, progress: Callable[[str], None]
) -> None:
    """Append to `part`, of `start` bytes, what the mirror has beyond them; from one that cannot continue, begin anew.

    Returns early where what comes is of another file, which its MD5 will show. Raises OSError, HTTPException or
    ValueError: not an address, absent, cut short, silent, or slower than patience allows.
    """
    # urllib opens file:///etc/ as well, and mirrors may be of the user's choice.
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("not an http or https address")
    headers = {"User-Agent": "ffpipe"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=patience.timeout)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the mirror's file ends at `start` or before
            return
        raise
    with response, part.open("ab") as file:
        # A server may ignore the range that was asked for, and send the file from its start.
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            start = 0
            file.truncate(0)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return
        expected, got = response.length, 0
        total = "?" if expected is None else f"{(start + expected) / 1e6:.1f}"
        begun = told = time.monotonic()
        # read1 gives what has come: read would wait for all of it, and a server that trickles never be found too slow.
        while piece := response.read1(1 << 16):
            file.write(piece)
            got += len(piece)
            if remote.size and start + got > remote.size + _GZIP_OVERHEAD:
                return
            now = time.monotonic()
            if now - told >= patience.report:
                told = now
                progress(f"{remote.name}: {(start + got) / 1e6:.1f} of {total} MB")
            if now - begun > patience.grace and got < patience.floor * (now - begun):
                raise TimeoutError(f"too slow: {got} bytes in {now - begun:.0f} seconds")
        # A connection that is cut looks like the end of the file here, without an error.
        if expected is not None and got < expected:
            raise OSError(f"cut short after {got} of {expected} bytes")


def flaw_of(path: Path, remote: Remote) -> str:
    """Return a reason why this file is not `remote`; empty where it is."""
    if not remote.md5:
        size = path.stat().st_size
        return f"it has {size:,} bytes, not {remote.size:,}" if remote.size not in (0, size) else ""
    try:
        found = md5(path, remote.size, packed=remote.packed)
    except UserError as error:
        return str(error)
    return "" if found == remote.md5 else f"the MD5 of the content is {found}, expected {remote.md5}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is within this block for the same folder."""
    # The folder itself is locked, so that no lock file stays behind.
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot lock; then MD5s and sizes have to do
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Data on a network, by URI: fetched whole to the cache folder, and known again by what their store says of them.

Stores are those of system/places.py, and http and https. This module must not know what is in a file.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from pyarrow import fs

from ffpipe.data import cache
from ffpipe.data.download import Patience, Remote, alone_in, download
from ffpipe.system.errors import escaped, refusing
from ffpipe.system.files import replacing, scheme_of
from ffpipe.system.places import Place

_WEB = ("http", "https")
_PIECE = 4 << 20
# Characters of a URL that stay as they are.
_KEPT = ":/?#[]@!$&'()*+,;=%~"
# Answers of servers, and of links that are signed for GET, to HEAD.
_NO_HEAD = (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


def to_terminal(line: str) -> None:
    """Say it to a person who waits; a log keeps stderr for what went wrong."""
    if sys.stderr.isatty():
        print(escaped(line), file=sys.stderr, flush=True)


def fetched(names: Sequence[str], field: str, progress: Callable[[str], None]) -> tuple[str, ...]:
    """Return the names of files on this machine, in the place of URIs; of a folder in a store, all files in it, in
    order.

    field: names the setting in messages. progress: takes lines of text. Raises UserError: no such file, a store that
    does not answer or refuses.
    """
    here: list[str] = []
    for name in names:
        scheme = scheme_of(name)
        if not scheme:
            here.append(name)
            continue
        with refusing(f"{field}: {name} cannot be fetched", (OSError, HTTPException, ImportError, ValueError)):
            if scheme in _WEB:
                here.append(str(_from_web(name, progress)))
            else:
                here += [str(path) for path in _from_store(name, progress)]
    return tuple(here)


def _from_web(url: str, progress: Callable[[str], None]) -> Path:
    """Download a file unless its server says that it is what is there already."""
    patience, url = Patience(), quote(url, safe=_KEPT)
    with _asked(url, patience) as response:
        size = int(response.headers.get("Content-Length") or 0)
        version = (url, size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
    target = _place(version, unquote(urlsplit(url).path))
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(part.parent):
        # A server that gives neither tag nor date says nothing of a file of the same size that has changed.
        known = version[2:] != (None, None)
        if known and _is_whole(target, size):
            return target
        if not (size and known):  # Nothing would tell a part of another version, continued, from the file.
            part.unlink(missing_ok=True)
        # No MD5 is known here: the size is all that a file which is cut or continued can be held against.
        download(url, part, Remote(target.name, "", size), patience, progress)
        part.replace(target)
    return target


def _asked(url: str, patience: Patience) -> HTTPResponse:
    """Ask a server for the size and version of a file; also one that answers nothing but GET."""
    for method in ("HEAD", "GET"):
        try:
            # The scheme was looked at.
            found: HTTPResponse = urlopen(
                Request(url, headers={"User-Agent": "ffpipe"}, method=method), timeout=patience.timeout
            )
        except HTTPError as error:
            if method == "GET" or error.code not in _NO_HEAD:
                raise
            error.close()
        else:
            return found
    raise AssertionError


def _from_store(uri: str, progress: Callable[[str], None]) -> list[Path]:
    place = Place(uri)
    info = place.ask(lambda: place.files.get_file_info(place.path))
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError("there is no such file")
    found = [info]
    if info.type == fs.FileType.Directory:
        selector = fs.FileSelector(place.path, recursive=True)
        inside = place.ask(lambda: place.files.get_file_info(selector))
        found = sorted((each for each in inside if each.type == fs.FileType.File), key=lambda each: str(each.path))
        if not found:
            raise FileNotFoundError("there is no file in that folder")
    return [_copied(place, each, uri, progress) for each in found]


def _copied(place: Place, info: fs.FileInfo, uri: str, progress: Callable[[str], None]) -> Path:
    """Copy one file unless it is here already, piece by piece with a deadline for each."""
    target = _place((uri, info.path, info.size, info.mtime_ns), info.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(target.parent):
        if _is_whole(target, info.size):
            return target
        progress(f"fetching {info.path}")
        stream = place.ask(lambda: place.files.open_input_stream(info.path))
        # Drawn, since some file systems cannot lock.
        with replacing(target, f".{secrets.token_hex(8)}") as file:
            while piece := place.ask(partial(stream.read, _PIECE), _PIECE):
                file.write(piece)
            if file.tell() != info.size:
                raise OSError(f"{file.tell():,} bytes came of {info.size:,}")
        # The file is here, whatever becomes of the connection.
        with suppress(OSError):
            place.ask(stream.close)
    return target


def _is_whole(path: Path, size: int) -> bool:
    """Tell whether a file that was fetched has all of its bytes; size 0: not known."""
    return path.exists() and size in (0, path.stat().st_size)


def _place(version: tuple[object, ...], path: str) -> Path:
    """Return where this version of a file lies in the cache folder; its name tells its format."""
    key = hashlib.sha256(repr(version).encode()).hexdigest()[:32]
    return cache.folder() / "downloads" / "remote" / key / (PurePosixPath(path).name or "data")

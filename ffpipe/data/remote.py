"""Data on a network, by URI: fetched whole to the cache folder, and known again by what their store says of them.

Stores are those of system/places.py, and http and https. This module must not know what is in a file.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from pyarrow import fs

from ffpipe.data import cache
from ffpipe.data.download import Patience, Remote, alone_in, download
from ffpipe.system.errors import escaped, refusing
from ffpipe.system.files import replacing, scheme_of
from ffpipe.system.places import Place

_WEB = ("http", "https")
_PIECE = 4 << 20


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
    patience = Patience()
    asked = Request(url, headers={"User-Agent": "ffpipe"}, method="HEAD")
    with urlopen(asked, timeout=patience.timeout) as response:  # the scheme was looked at
        size = int(response.headers.get("Content-Length") or 0)
        version = (url, size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
    target = _place(version, unquote(urlsplit(url).path))
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(part.parent):
        # A server that gives neither tag nor date says nothing of a file of the same size that has changed.
        if target.exists() and version[2:] != (None, None):
            return target
        if not size:  # Nothing would tell a part of another version, continued, from the file.
            part.unlink(missing_ok=True)
        # No MD5 is known here: the size is all that a file which is cut or continued can be held against.
        download(url, part, Remote(target.name, "", size), patience, progress)
        part.replace(target)
    return target


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
    if target.exists():
        return target
    progress(f"fetching {info.path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    stream = place.ask(lambda: place.files.open_input_stream(info.path))
    with replacing(target, ".part") as file:
        while piece := place.ask(partial(stream.read, _PIECE), _PIECE):
            file.write(piece)
    # The file is here, whatever becomes of the connection.
    with suppress(OSError):
        place.ask(stream.close)
    return target


def _place(version: tuple[object, ...], path: str) -> Path:
    """Return where this version of a file lies in the cache folder; its name tells its format."""
    key = hashlib.sha256(repr(version).encode()).hexdigest()[:32]
    return cache.folder() / "downloads" / "remote" / key / (PurePosixPath(path).name or "data")

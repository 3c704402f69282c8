"""The bytes of a file, whether it is gzipped or not, read without ever unpacking more than is asked for.

It must not know what the bytes mean.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import GzipFile
from pathlib import Path
from typing import BinaryIO, cast

from ffpipe.system.errors import refusing


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the uncompressed bytes: a GzipFile where the first two bytes say so, else the file.

    Whatever fails within the block for what the file holds becomes a UserError that names the file.
    """
    with refusing(f"{path}: cannot be read", (OSError, EOFError, ValueError, zlib.error)), path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with cast(BinaryIO, GzipFile(fileobj=file)) if zipped else file as stream:
            yield stream


def md5(path: Path, most_bytes: int, *, packed: bool = False) -> str:
    """Compute the MD5 of the uncompressed bytes, in hexadecimal, reading at most one byte more than `most_bytes`.
    packed: of the file as it is.

    So a longer file never has the MD5 of one of `most_bytes`. Raises UserError where it cannot be read.
    """
    # Hosts that keep to FIPS refuse MD5 for anything else.
    digest, left = hashlib.md5(usedforsecurity=False), most_bytes + 1
    with path.open("rb") if packed else opened(path) as stream:
        while left and (piece := stream.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()

"""Known sets: where a local copy may lie, and how a copy in another format is held against the published MD5s."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.data.source import Contents
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded

# Names of the two files of a copy in Parquet: short ones, and those of the Hugging Face hub.
PARQUET = {part: (f"{part}.parquet", f"{part}-00000-of-00001.parquet") for part in ("train", "test")}


@dataclass(frozen=True)
class Digest:
    """MD5 (hexadecimal) of `head` and of the bytes of the next `rows` examples."""

    rows: int
    md5: str
    head: bytes = b""


def given_folder(data_dir: str) -> tuple[Path, str] | None:
    """Return the folder with local copies and the setting that names it, or None where neither is set."""
    given = data_dir or os.environ.get("FFPIPE_DATA", "")
    return (expanded(given), "execution.data_dir" if data_dir else "FFPIPE_DATA") if given else None


def mirrors_of(variable: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return base URLs in the order in which they are tried: those in a variable, separated by commas, else `known`."""
    own = tuple(url.strip() for url in os.environ.get(variable, "").split(",") if url.strip())
    return own or known


def find(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first file of one of these names in one of these folders, or None."""
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def checked(
    contents: Contents,
    digests: Sequence[Digest],
    row_bytes: Callable[[NDArray[Any], NDArray[np.int64]], NDArray[np.uint8]],
    title: str,
) -> Contents:
    """Hold the images of a copy against published MD5s while they pass.

    row_bytes: makes of images (n, features) and their labels (n,) the bytes (n, any) that were hashed. Raises UserError
    at once where the number of examples or their dtype is another, and while they pass where an MD5 is.
    """
    count = sum(digest.rows for digest in digests)
    if len(contents.labels) != count or contents.dtype != np.uint8:
        raise UserError(
            f"{contents.where}: {len(contents.labels)} images of {contents.dtype}, but {title} has {count} of uint8 "
            "here: it is cut or another set"
        )

    def blocks() -> Iterator[NDArray[Any]]:
        done, left = 0, list(digests)
        hashed = hashlib.md5(left[0].head, usedforsecurity=False)
        needed = left[0].rows
        for block in contents.blocks():
            rest = block
            while len(rest):
                some, rest = rest[:needed], rest[needed:]
                hashed.update(np.ascontiguousarray(row_bytes(some, contents.labels[done : done + len(some)])).data)
                done, needed = done + len(some), needed - len(some)
                if not needed:
                    digest = left.pop(0)
                    if hashed.hexdigest() != digest.md5:
                        raise UserError(
                            f"{contents.where}: images {done - digest.rows} to {done - 1} with their labels have the "
                            f"MD5 {hashed.hexdigest()}, those of {title} {digest.md5}: they are damaged or another set"
                        )
                    if left:
                        hashed, needed = hashlib.md5(left[0].head, usedforsecurity=False), left[0].rows
            yield block

    return replace(contents, blocks=blocks)

"""Known sets: where a local copy may lie, and how a copy in another format is held against the published MD5s."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.data import cache
from ffpipe.data.download import Patience, Remote, fetch
from ffpipe.data.source import OpenedPart, cut_anew
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded

# Names of the two files of a copy in Parquet: short ones, and those of the Hugging Face hub.
PARQUET = {part: (f"{part}.parquet", f"{part}-00000-of-00001.parquet") for part in ("train", "test")}


def given_folder(data_dir: str) -> tuple[Path, str] | None:
    """Return the folder with local copies and the setting that names it, or None where neither is set."""
    variable = os.environ.get("FFPIPE_DATA", "")
    if not (given := data_dir or variable):
        return None
    folder = expanded(given).absolute()
    if not data_dir:
        return folder, "FFPIPE_DATA"
    # A run keeps the folder that the variable named when it began, and the user knows it by that.
    same = variable and folder == expanded(variable).absolute()
    return folder, "execution.data_dir (FFPIPE_DATA)" if same else "execution.data_dir"


def mirrors_of(variable: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return base URLs in the order in which they are tried: those in a variable, separated by commas, else `known`."""
    own = tuple(url.strip() for url in os.environ.get(variable, "").split(",") if url.strip())
    return own or known


def downloaded(
    remote: Remote, folder: str, mirrors: Sequence[str], patience: Patience | None, progress: Callable[[str], None]
) -> Path:
    """Return a file of a known set in a folder of the cache, downloaded unless it is there. Raises UserError."""
    return fetch(remote, cache.folder() / "downloads" / folder, mirrors, patience or Patience(), progress)


def find(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first file of one of these names in one of these folders, or None."""
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def checked(
    contents: OpenedPart,
    rows: int,
    md5s: Sequence[str],
    row_bytes: Callable[[NDArray[Any], NDArray[np.int64]], NDArray[np.uint8]],
    title: str,
    head: bytes = b"",
) -> OpenedPart:
    """Hold the images of a copy against published MD5s (hexadecimal) while they pass, each of `head` and `rows` images.

    row_bytes: makes of images (n, features) and their labels (n,) the bytes (n, any) that were hashed. Raises UserError
    at once where the number of examples or their dtype is another, and while they pass where an MD5 is.
    """
    count = rows * len(md5s)
    if len(contents.labels) != count or contents.dtype != np.uint8:
        raise UserError(
            f"{contents.where}: {len(contents.labels)} images of {contents.dtype}, but {title} has {count} of uint8 "
            "here: it is cut or another set"
        )

    def blocks() -> Iterator[NDArray[Any]]:
        for number, block in enumerate(cut_anew(contents.blocks(), rows)):
            first, last = number * rows, (number + 1) * rows - 1
            hashed = hashlib.md5(head, usedforsecurity=False)
            hashed.update(np.ascontiguousarray(row_bytes(block, contents.labels[first : last + 1])).data)
            if hashed.hexdigest() != md5s[number]:
                raise UserError(
                    f"{contents.where}: images {first} to {last} with their labels have the MD5 {hashed.hexdigest()}, "
                    f"those of {title} {md5s[number]}: they are damaged or another set"
                )
            yield block

    return replace(contents, blocks=blocks)

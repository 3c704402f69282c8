"""Pictures in folders, one a class, as torchvision's ImageFolder has them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.data import images, source
from ffpipe.data.below import files_below, is_hidden, is_of_runs, is_run
from ffpipe.data.discover import PICTURES
from ffpipe.data.labels import plain
from ffpipe.data.source import BLOCK_BYTES, OpenedPart, Part
from ffpipe.system.errors import UserError, refusing


def part(root: Path, mode: str, size: tuple[int, ...], field: str) -> Part:
    """Name the pictures in the folders below `root`, by folder and name. mode, size: as in columns.Wanted. Raises
    UserError where there are none."""
    files, left_out = pictures_of(root, field)
    # Beside each its own name, which says the class: several links may lead to one file.
    identity = tuple((str(file.relative_to(root)), source.file_identity(file, field)) for file in files)
    # Words on what is left out are kept in the cached file, so other words are another file.
    known = ("folder", str(root), identity, mode, size, *([left_out] if left_out else []))
    return Part("folder", known, lambda: contents(root, files, mode, size, left_out))


def pictures_of(root: Path, field: str) -> tuple[list[Path], str]:
    """List the pictures in the folders below `root`, and say in words which folders are not a class and which files are
    not pictures.

    Hidden files and runs that lie there are left out. Raises UserError where there are no files, and for a folder
    whose files are none of them pictures.
    """
    with refusing(f"{field}: {root}"):
        folders = sorted(each for each in root.iterdir() if each.is_dir() and not is_hidden(each))
    there = {each: [] if is_run(each) else files_below(each) for each in folders}
    by_class = {each: [f for f in files if os.path.isfile(f)] for each, files in there.items()}
    if not any(by_class.values()):
        raise UserError(f"{field}: {root} has no folders with pictures in them; expected one folder for each class")
    files, others = list[Path](), list[Path]()
    for folder, inside in by_class.items():
        pictures = [file for file in inside if _is_picture(file)]
        if inside and not pictures:
            raise UserError(
                f"{field}: {folder} has no pictures: {inside[0].name} is not {images.SPELLED}; expected a folder of "
                "pictures for each class, and no other folders beside these"
            )
        files += pictures
        others += sorted({*inside} - {*pictures})
    _refuse_one_class([folder.name for folder, inside in by_class.items() if inside], f"{field}: {root}")
    empty = [each for each in folders if not by_class[each]]
    runs = [each.name for each in empty if is_of_runs(each)]
    bare = [each.name for each in empty if each.name not in runs]
    warnings = [f"no picture is in {', '.join(bare)}, so no class is made of it"] if bare else []
    if others:
        warnings.append(
            f"{len(others):,} file(s) that are not pictures are left out, of which {others[0]} is the first"
        )
    if astray := [file for files in there.values() for file in files if not os.path.exists(file)]:
        warnings.append(f"{len(astray):,} link(s) lead nowhere, of which {astray[0]} is the first")
    said = [f"warning: {'; '.join(warnings)}"] if warnings else []
    said += [f"{', '.join(runs)} is left out: it has runs and no pictures"] if runs else []
    return files, "; ".join(said)


def _refuse_one_class(folders: Sequence[str], where: str) -> None:
    """Refuse folders whose names are read as that of one class: cat and "cat ", or 1 and 1.0."""
    first: dict[Any, str] = {}
    for folder, label in zip(folders, plain(np.array(folders), where).tolist(), strict=True):
        if (other := first.setdefault(label, folder)) != folder:
            raise UserError(f"{where}: the folders {other!r} and {folder!r} stand for one class: rename one of them")


def _is_picture(file: Path) -> bool:
    """Tell whether a file is meant as a picture, by its name or else by its first bytes."""
    return file.name.lower().endswith(PICTURES) or bool(_mode_of(file))


def contents(root: Path, files: list[Path], mode: str, size: tuple[int, ...], left_out: str = "") -> OpenedPart:
    """Read the headers and the first picture. left_out: which folders and files are not read, in words. Raises
    UserError naming the first file that cannot be decoded."""
    found = ""
    # From headers alone: to decode every picture for its colours would read the set twice.
    if not mode:
        mode, found = images.common(map(_mode_of, files))
    decode = partial(_decoded, mode=mode, size=size)
    first = decode(files[0])
    at_once = max(1, BLOCK_BYTES // first.nbytes)

    def blocks() -> Iterator[NDArray[Any]]:
        for start in range(0, len(files), at_once):
            some = files[start : start + at_once]
            block = np.empty((len(some), *first.shape), np.uint8)
            for row, file in enumerate(some):
                pixels = decode(file)
                if pixels.shape != first.shape:
                    raise UserError(
                        f"{file}: it has the shape {pixels.shape}, but {files[0]} has {first.shape}: "
                        f"{source.one_size(first.shape)}"
                    )
                block[row] = pixels
            yield block.reshape(len(some), -1)

    return OpenedPart(
        where=str(root),
        shape=source.check_shape(first.shape, str(files[0])),
        dtype=np.dtype(np.uint8),
        divisor=255,
        labels=np.array([file.relative_to(root).parts[0] for file in files]),
        blocks=blocks,
        found="; ".join(filter(None, (left_out, found))),
    )


def _mode_of(file: Path) -> str:
    with refusing(f"{file}: cannot be read"), file.open("rb") as stream:
        return images.mode_of(stream)


def _bytes_of(file: Path) -> bytes:
    with refusing(f"{file}: cannot be read"), file.open("rb") as stream:
        return stream.read()


def _decoded(file: Path, mode: str, size: tuple[int, ...]) -> NDArray[np.uint8]:
    with refusing(f"{file}: it cannot be decoded", ValueError):
        return images.decode(_bytes_of(file), mode, size)

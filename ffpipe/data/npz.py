"""NumPy archives (.npz) and pairs of arrays (.npy), of which one array at a time is in memory and none is unpickled.

It knows the names that pairs of arrays go by; it must not know how a set is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from ffpipe.data import source
from ffpipe.data.source import OpenedPart, Part
from ffpipe.system.errors import UserError, refusing

Pair = tuple[str, str]
Role = Literal["train", "test"]

# Images and labels, in lower case, in the order in which they are looked for: of Keras and MedMNIST, then of files of
# one part, then of those that were saved without names.
_OF_ROLE: dict[Role, tuple[Pair, ...]] = {
    role: ((f"x_{role}", f"y_{role}"), (f"{role}_images", f"{role}_labels"), (f"{role}_x", f"{role}_y"))
    for role in ("train", "test")
}
_PLAIN: tuple[Pair, ...] = (("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "target"))
_NAMELESS: Pair = ("arr_0", "arr_1")


def part(paths: list[Path], role: Role, arrays: tuple[str, ...], field: str) -> Part:
    """Return the part for `role` in one archive, or in two of which the second has the labels.

    arrays: names of the arrays of images and labels; empty: looked for. Raises UserError.
    """
    identity = tuple(source.file_identity(path, field) for path in paths)
    if len(paths) == 2:  # a file a role, as KMNIST has them
        names = [(_only(path), path) for path in paths]
        return Part("npz", ("npz", identity), lambda: _contents(*names))
    # By themselves in lower case, since MedMNIST, Keras and people differ in how they write the same names.
    (path,), usual = paths, (*_OF_ROLE[role], *_PLAIN, _NAMELESS)
    names_in = _names(path)
    pair = _asked(path, names_in, arrays, role) if arrays else _pair(names_in, usual)
    if pair is None:
        expected = " or ".join(f"({a}, {b})" for a, b in (*_OF_ROLE[role][:2], *_PLAIN[:2]))
        raise UserError(
            f"{path}: expected the arrays {expected}; it has {', '.join(sorted(names_in)) or 'none'}: "
            "training.data.arrays names those of images and labels"
        )
    return _part(path, identity, pair)


def test_part(path: Path, arrays: tuple[str, ...], field: str) -> Part | None:
    """The test part that an archive of training examples brings along, if any. arrays: as for `part`."""
    identity = (source.file_identity(path, field),)
    names = _names(path)
    pair = _asked(path, names, arrays, "test") if len(arrays) == 4 else _pair(names, _OF_ROLE["test"])
    return _part(path, identity, pair) if pair else None


def npy_part(images: Path, labels: Path, field: str) -> Part:
    """Return the part in two .npy files. Raises UserError."""
    identity = (source.file_identity(images, field), source.file_identity(labels, field))
    return Part("npy", ("npy", identity), lambda: _contents(("", images), ("", labels)))


def _part(path: Path, identity: object, pair: Pair) -> Part:
    return Part("npz", ("npz", identity, pair), lambda: _contents((pair[0], path), (pair[1], path)))


def _contents(images_at: tuple[str, Path], labels_at: tuple[str, Path]) -> OpenedPart:
    """Read both arrays. Raises UserError: unreadable, damaged, not images and their labels."""
    (name, path), (label_name, label_path) = images_at, labels_at
    labels, images = _array(label_path, label_name, text=True), _array(path, name)
    name, label_name = name or path.name, label_name or label_path.name
    if images.ndim < 2:
        raise UserError(f"{path}: {name} has shape {images.shape}; expected (examples, ...)")
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise UserError(
            f"{path}: {name} has shape {images.shape} and {label_name} {labels.shape}; expected one label an image"
        )
    return OpenedPart(
        where=str(path),
        shape=source.check_shape(images.shape[1:], f"{path}: {name}"),
        dtype=images.dtype,
        divisor=0,
        labels=labels,
        blocks=lambda: source.in_blocks(images),
    )


def _pair(names: Mapping[str, str], pairs: tuple[Pair, ...]) -> Pair | None:
    """Return the first of these pairs that is there, by the names that the archive has."""
    return next(((names[a], names[b]) for a, b in pairs if a in names and b in names), None)


def _asked(path: Path, names: Mapping[str, str], arrays: tuple[str, ...], role: Role) -> Pair:
    """Return the pair that the user names: of the training part, then of the test part where it has names of its
    own."""
    if len(arrays) not in (2, 4):
        raise UserError(
            f"training.data.arrays names {len(arrays)} arrays; expected IMAGES LABELS, or those of training and of test"
        )
    pair = arrays[2:] if role == "test" and len(arrays) == 4 else arrays[:2]
    for name in pair:
        if name not in names.values():
            raise UserError(
                f"{path}: training.data.arrays names {name!r}, but it has {', '.join(sorted(names.values())) or 'none'}"
            )
    return pair[0], pair[1]


def _names(path: Path) -> dict[str, str]:
    """Return the names of the arrays of an archive, by themselves in lower case."""
    with _opened(path) as archive:
        return {name.lower(): name for name in archive.files}


def _only(path: Path) -> str:
    names = _names(path)
    if len(names) != 1:
        raise UserError(f"{path}: it has {len(names)} arrays; of two files, each has one: of images, and of labels")
    return next(iter(names.values()))


def _array(path: Path, name: str, text: bool = False) -> NDArray[Any]:
    """Read an array of an archive, or of a .npy file where no name is given. text: whether it may hold words."""
    if name:
        with _opened(path) as archive:
            array = archive[name]
    else:
        with refusing(f"{path}: cannot be read", Exception):
            # Mapped, so that nothing is allocated for a shape that the header only claims.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):  # a member that does not begin as .npy files do comes as bytes
        raise UserError(f"{path}: {name} is not an array")
    if array.dtype.kind not in ("biufSU" if text else "biuf"):
        raise UserError(f"{path}: {name or 'it'} holds {array.dtype}; expected integers or floats")
    return array


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    # zipfile and NumPy's parser have as many ways to fail as a damaged archive has.
    with (
        refusing(f"{path}: cannot be read", Exception),
        path.open("rb") as file,
        # np.load would go by the first bytes, and give an array where there is one.
        NpzFile(file, allow_pickle=False) as archive,
    ):
        yield archive

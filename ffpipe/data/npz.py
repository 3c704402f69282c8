"""NumPy archives (.npz), of which one array at a time is in memory and none is unpickled.

It knows the names that pairs of arrays go by; it must not know how a set is split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from ffpipe.data import source
from ffpipe.data.source import Contents, Part
from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import expanded

Pair = tuple[str, str]

# Images and labels, in the order in which they are looked for.
_KERAS: dict[str, Pair] = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
_PLAIN: tuple[Pair, ...] = (("images", "labels"), ("x", "y"))


def part(path: Path, role: Literal["train", "test"], field: str) -> Part:
    """The part for `role` in an archive: its Keras pair, else (images, labels), else (x, y). Raises UserError."""
    identity = source.file_identity(path, field)
    path = expanded(path)
    names, pairs = _names(path), (_KERAS[role], *_PLAIN)
    for pair in pairs:
        if names.issuperset(pair):
            return _part(path, identity, pair)
    expected = " or ".join(f"({a}, {b})" for a, b in pairs)
    raise UserError(f"{path}: expected the arrays {expected}; it has {', '.join(sorted(names)) or 'none'}")


def keras_test(path: Path, field: str) -> Part | None:
    """The test part that an archive of training examples brings along, if any."""
    identity = source.file_identity(path, field)
    path = expanded(path)
    return _part(path, identity, _KERAS["test"]) if _names(path).issuperset(_KERAS["test"]) else None


def contents(path: Path, pair: Pair) -> Contents:
    """Read both arrays. Raises UserError: unreadable, damaged, not images and their labels."""
    name, label_name = pair
    labels, images = _array(path, label_name), _array(path, name)
    if images.ndim < 2:
        raise UserError(f"{path}: {name} has shape {images.shape}; expected (examples, ...)")
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise UserError(
            f"{path}: {name} has shape {images.shape} and {label_name} {labels.shape}; expected one label an image"
        )
    dtype, divisor = source.stored_as(images.dtype)
    return Contents(
        where=str(path),
        shape=source.check_shape(images.shape[1:], f"{path}: {name}"),
        dtype=dtype,
        divisor=divisor,
        labels=source.integer_labels(labels.reshape(-1), f"{path}: {label_name}"),
        blocks=lambda: _blocks(images),
    )


def _part(path: Path, identity: object, pair: Pair) -> Part:
    return Part("npz", ("npz", identity, pair), lambda: contents(path, pair))


def _names(path: Path) -> set[str]:
    with _opened(path) as archive:
        return set(archive.files)


def _array(path: Path, name: str) -> NDArray[Any]:
    with _opened(path) as archive:
        array = archive[name]
    if not isinstance(array, np.ndarray):  # a member that does not begin as .npy files do comes as bytes
        raise UserError(f"{path}: {name} is not an array")
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: {name} holds {array.dtype}; expected integers or floats")
    return array


def _blocks(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Arrays (n, features) in the dtype in which they are stored."""
    width = math.prod(images.shape[1:])
    rows = max(1, source.BLOCK_BYTES // (width * images.itemsize))
    for first in range(0, len(images), rows):
        yield source.cast(images[first : first + rows].reshape(-1, width))


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            yield archive
    except Exception as error:  # zipfile and NumPy's parser have as many ways to fail as a damaged archive has
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None

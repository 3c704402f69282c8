"""NumPy archives (.npz), read member by member in blocks straight from the zip, and never unpickled.

It knows the names that pairs of arrays go by; it must not know how a set is split.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ffpipe.data import source
from ffpipe.data.source import Contents, Part
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded

Pair = tuple[str, str]

# Images and labels, in the order in which they are looked for.
_KERAS: dict[str, Pair] = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
_PLAIN: tuple[Pair, ...] = (("images", "labels"), ("x", "y"))

# NumPy writes headers of about 128 bytes; a longer one than this is refused unread.
_MOST_HEADER = 1 << 12

# What zipfile, its decompressors and this module raise for a damaged archive; RuntimeError is an encrypted one.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    OverflowError,
    BadZipFile,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class Member:
    """One array in an archive. offset: bytes before its numbers."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


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
    """Read the two headers and the labels. Raises UserError: unreadable, damaged, not images and their labels."""
    images, labels = (_member(path, name) for name in pair)
    if len(images.shape) < 2:
        raise UserError(f"{path}: {images.name} has shape {images.shape}; expected (examples, ...)")
    if not labels.shape or images.shape[0] != labels.shape[0]:
        raise UserError(
            f"{path}: {images.name} has shape {images.shape} and {labels.name} {labels.shape}; expected as many labels "
            "as images"
        )
    if math.prod(labels.shape[1:]) != 1:
        raise UserError(f"{path}: {labels.name} has shape {labels.shape}; expected one label an image")
    shape = source.check_shape(images.shape[1:], f"{path}: {images.name}")
    pieces = list(_blocks(path, labels))
    numbers = np.concatenate(pieces)[:, 0] if pieces else np.empty(0, labels.dtype)
    dtype, divisor = source.stored_as(images.dtype)
    return Contents(
        where=str(path),
        shape=shape,
        dtype=dtype,
        divisor=divisor,
        labels=source.integer_labels(numbers, f"{path}: {labels.name}"),
        blocks=lambda: (source.cast(block) for block in _blocks(path, images)),
    )


def _part(path: Path, identity: object, pair: Pair) -> Part:
    return Part("npz", ("npz", identity, pair), lambda: contents(path, pair))


def _names(path: Path) -> set[str]:
    with _archive(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


def _member(path: Path, name: str) -> Member:
    with _archive(path) as archive, archive.open(f"{name}.npy") as stream:
        member = _header(name, stream.read(_MOST_HEADER))
        held = archive.getinfo(f"{name}.npy").file_size
    if member.offset + math.prod(member.shape) * member.dtype.itemsize != held:
        raise UserError(
            f"{path}: {name} has the header of an array {member.dtype} {member.shape}, but {held} bytes: it is damaged"
        )
    return member


def _header(name: str, start: bytes) -> Member:
    """From the first bytes of a .npy file. Raises ValueError."""
    stream = io.BytesIO(start)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has the .npy format version {version}; expected (1, 0) or (2, 0)")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(stream, max_header_size=_MOST_HEADER)
    except Exception as error:  # NumPy's parser has as many ways to fail as a damaged header has
        raise ValueError(f"{name} has a header that cannot be read: {error}") from None
    if dtype.kind not in "iuf":
        raise ValueError(f"{name} holds {dtype}; expected integers or floats")
    if fortran and len(shape) > 1:
        raise ValueError(f"{name} is in Fortran order; save it anew from numpy.ascontiguousarray")
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return Member(name, dtype, shape, stream.tell())


def _blocks(path: Path, member: Member) -> Iterator[NDArray[Any]]:
    """Arrays (n, numbers in a row) in the member's dtype. Reading to the end lets the zip check its CRC."""
    with _archive(path) as archive, archive.open(f"{member.name}.npy") as stream:
        if len(stream.read(member.offset)) < member.offset:
            raise EOFError(f"{member.name} ends within its header")
        width = math.prod(member.shape[1:])
        for piece in source.read_rows(cast(BinaryIO, stream), member.shape[0], member.row_bytes):
            yield np.frombuffer(piece, member.dtype).reshape(-1, width)


@contextmanager
def _archive(path: Path) -> Iterator[ZipFile]:
    try:
        with path.open("rb") as file, ZipFile(cast(IO[bytes], file)) as archive:
            yield archive
    except _DAMAGE as error:
        raise UserError(f"{path}: cannot be read: {source.reason(error)}") from None

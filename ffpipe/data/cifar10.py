"""CIFAR-10: its authors' archives, unpacked or not, a copy in Parquet, or the binary archive downloaded on first use.

Whatever it is read from, what comes out is held against the MD5s of the six files of the binary version.
"""

from __future__ import annotations

import pickletools
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.data import columns, tables
from ffpipe.data.download import Patience, Remote
from ffpipe.data.known import PARQUET, checked, downloaded, find, given_folder, mirrors_of
from ffpipe.data.labels import Classes, plain
from ffpipe.data.source import OpenedPart, Part, file_identity
from ffpipe.system.errors import UserError, refusing

CLASSES = 10
# batches.meta.txt of the authors' archives.
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (32, 32, 3)
PIXELS = 3 * 32 * 32
TITLE = "CIFAR-10"
VARIABLE = "FFPIPE_CIFAR10_MIRRORS"
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
)
ARCHIVE = Remote("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171, packed=True)
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"

DAMAGE = (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zlib.error)

Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]


@dataclass(frozen=True)
class Batches:
    """The files of a part by name, without the ending that they have in the binary version, and their MD5s in it."""

    rows: int
    md5s: Mapping[str, str]

    def checked(self, contents: OpenedPart) -> OpenedPart:
        """Hold contents against the MD5s."""
        return checked(contents, self.rows, list(self.md5s.values()), _records, TITLE)


FILES: Mapping[str, Batches] = {
    "train": Batches(
        10_000,
        {
            "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        },
    ),
    "test": Batches(10_000, {"test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d"}),
}


def parts(
    data_dir: str,
    progress: Callable[[str], None],
    files: Mapping[str, Batches] = FILES,
    archive: Remote = ARCHIVE,
    patience: Patience | None = None,
) -> tuple[Part, Part]:
    """Return the training and the test part, as for MNIST (mnist.parts). Raises UserError where a folder has no
    copy."""
    if given := given_folder(data_dir):
        return _local_part("train", files["train"], *given), _local_part("test", files["test"], *given)

    def part(batches: Batches) -> Part:
        def contents() -> OpenedPart:
            path = downloaded(archive, "", mirrors_of(VARIABLE, MIRRORS), patience, progress)
            return _of_batches(path, BINARY, batches)

        return Part("cifar10", ("cifar10", *batches.md5s.values()), contents)

    return part(files["train"]), part(files["test"])


def _local_part(part: str, batches: Batches, folder: Path, setting: str) -> Part:
    """Make a part of the first copy that is there."""
    folders = [folder / "cifar10", folder / "cifar-10", folder]
    for version, packed, ending in ((BINARY, ARCHIVE.name, ".bin"), (PYTHON, PYTHON_ARCHIVE, "")):
        if (path := find(folders, [packed])) is not None:
            # Both parts are in one archive, and are told apart by the names of their files.
            identity = (file_identity(path, setting), *batches.md5s)
            return Part("cifar10", ("cifar10", *identity), partial(_of_batches, path, version, batches))
        names = [f"{name}{ending}" for name in batches.md5s]
        for place in (each for above in folders for each in (above / version, above)):
            if all((place / name).is_file() for name in names):
                identities = [file_identity(place / name, setting) for name in names]
                return Part("cifar10", ("cifar10", *identities), partial(_of_batches, place, version, batches))
    # Not in the folder itself: a train.parquet beside several sets may be of any of them.
    if (path := find(folders[:2], PARQUET[part])) is not None:

        def contents() -> OpenedPart:
            opened = columns.contents(tables.parquet, [path])
            if opened.shape != SHAPE:
                raise UserError(f"{path}: images are {opened.shape}, those of {TITLE} {SHAPE}: it is another set")
            labels = Classes(CLASSES, NAMES).numbers(plain(opened.labels, str(path)), str(path), opened.names)
            return batches.checked(replace(opened, labels=labels, names=NAMES))

        return Part("cifar10", ("cifar10", "parquet", file_identity(path, setting)), contents)
    raise UserError(
        f"{setting} is {folder}, but there is no copy of {TITLE}: looked in {', '.join(map(str, folders))} for "
        f"{ARCHIVE.name}, {PYTHON_ARCHIVE}, the folders {BINARY} and {PYTHON}, and {PARQUET[part][0]}"
    )


def _of_batches(where: Path, version: str, batches: Batches) -> OpenedPart:
    """Open the files of a part in an archive or a folder. Raises UserError where one is missing or damaged."""

    def read() -> Iterator[Batch]:
        for name in batches.md5s:
            with refusing(f"{where}: {name} of {TITLE} cannot be read", DAMAGE):
                data = _bytes_of(where, version, f"{name}.bin" if version == BINARY else name)
                batch = _of_binary(data) if version == BINARY else _of_pickle(data)
            yield batch

    def blocks() -> Iterator[NDArray[Any]]:
        for _, pixels in read():
            yield pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).reshape(-1, PIXELS)

    # Read twice, once for the labels: keeping the pixels meanwhile would take 150 MB.
    labels = np.concatenate([each for each, _ in read()])
    opened = OpenedPart(
        where=str(where), shape=SHAPE, dtype=np.dtype(np.uint8), divisor=255, labels=labels, blocks=blocks, names=NAMES
    )
    return batches.checked(opened)


def _bytes_of(where: Path, version: str, name: str) -> bytes:
    if where.is_dir():
        return (where / name).read_bytes()
    with tarfile.open(where, "r:gz") as archive:
        member = archive.extractfile(f"{version}/{name}")
        if member is None:
            raise ValueError("it is not a file")
        return member.read()


def _of_binary(data: bytes) -> Batch:
    """Read records of a label and 3,072 pixels: red, green, blue, each row by row."""
    if len(data) % (1 + PIXELS):
        raise ValueError(f"it has {len(data)} bytes, expected a multiple of {1 + PIXELS}")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 0].astype(np.int64), records[:, 1:]


def _of_pickle(data: bytes) -> Batch:
    """Read the Python version without unpickling: the numbers after "labels", and the longest string of bytes."""
    labels: list[int] = []
    key, pixels = b"", b""
    for operation, argument, _ in pickletools.genops(data):
        # Python 2 wrote them, whose strings of bytes pickletools gives as text, byte by byte.
        if isinstance(argument, str):
            try:
                argument = argument.encode("latin-1")
            except UnicodeEncodeError:
                raise ValueError("it holds text that is not bytes") from None
        if isinstance(argument, bytes):
            # Keys are shorter than this; names of pictures, pixels and the name of the batch are not.
            key = argument if len(argument) < len(b"batch_label") else key
            pixels = max(pixels, argument, key=len)
        # Other operations have whole numbers too, such as places in the unpickler's memo.
        elif key == b"labels" and isinstance(argument, int) and operation.name.startswith("BININT"):
            labels.append(argument)
    if len(pixels) != PIXELS * len(labels):
        raise ValueError(f"it has {len(pixels)} bytes of pixels for {len(labels)} labels")
    return np.array(labels, np.int64), np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS)


def _records(images: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Make the records of the binary version of images (n, 3072) with channels last."""
    planes = images.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).reshape(-1, PIXELS)
    return np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1)

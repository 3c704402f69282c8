"""MNIST and Fashion-MNIST: local copies as IDX or Parquet, or downloaded on first use, and known by their MD5s.

Their contents are for `idx` and `parquet` to read; how they get here is for `download`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ffpipe.data import columns, idx, tables
from ffpipe.data.download import Patience, Remote
from ffpipe.data.gzipped import md5
from ffpipe.data.known import PARQUET, checked, downloaded, find, given_folder, mirrors_of
from ffpipe.data.labels import plain
from ffpipe.data.scale import BYTE
from ffpipe.data.source import OpenedPart, Part, file_identity
from ffpipe.system.errors import UserError

CLASSES = 10

Files = Mapping[str, tuple[Remote, Remote]]


@dataclass(frozen=True)
class Known:
    """A set of four IDX files. title: in messages. variable: names other mirrors. files: images and labels by part.
    torchvision: the folder in which torchvision keeps it. names: of the classes, where they are more than digits. side:
    of an image, in pixels."""

    name: str
    title: str
    variable: str
    mirrors: tuple[str, ...]
    files: Files
    torchvision: str
    names: tuple[str, ...] = ()
    side: int = 28


def _files(*of_each: tuple[str, int]) -> Files:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    remotes = [Remote(f"{name}-ubyte.gz", *of) for name, of in zip(names, of_each, strict=True)]
    return {"train": (remotes[0], remotes[1]), "test": (remotes[2], remotes[3])}


MNIST = Known(
    "mnist",
    "MNIST",
    "FFPIPE_MNIST_MIRRORS",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    _files(
        ("6bbc9ace898e44ae57da46a324031adb", 47_040_016),
        ("a25bea736e30d166cdddb491f175f624", 60_008),
        ("2646ac647ad5339dbf082846283269ea", 7_840_016),
        ("27ae3e4e09519cfbb04c329615203637", 10_008),
    ),
    "MNIST",
)
FASHION_MNIST = Known(
    "fashion-mnist",
    "Fashion-MNIST",
    "FFPIPE_FASHION_MNIST_MIRRORS",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    _files(
        ("f4a8712d7a061bf5bd6d2ca38dc4d50a", 47_040_016),
        ("9018921c3c673c538a1fc5bad174d6f9", 60_008),
        ("8181f5470baa50b63fa0f6fddb340f0a", 7_840_016),
        ("15d484375f8d13e6eb1aabb0c3f46965", 10_008),
    ),
    "FashionMNIST",
    # https://github.com/zalandoresearch/fashion-mnist#labels
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def parts(
    data_dir: str,
    progress: Callable[[str], None],
    known: Known = MNIST,
    patience: Patience | None = None,
    others: tuple[Known, ...] = (MNIST, FASHION_MNIST),
) -> tuple[Part, Part]:
    """Return the training and the test part.

    data_dir: folder with local copies; empty: $FFPIPE_DATA; if that is not set either, opening a part downloads
    its files to the cache folder, telling `progress` in lines of text. others: sets that a file may be of by mistake.
    Raises UserError where a folder is given and lacks a file.
    """
    if given := given_folder(data_dir):
        return _local_part(known, "train", *given, others), _local_part(known, "test", *given, others)
    return _remote_part(known, "train", patience, progress), _remote_part(known, "test", patience, progress)


def mirrors(known: Known = MNIST) -> tuple[str, ...]:
    """Return base URLs, in the order in which they are tried: those of the variable, else those that are known."""
    return mirrors_of(known.variable, known.mirrors)


def _local_part(known: Known, part: str, folder: Path, setting: str, others: tuple[Known, ...]) -> Part:
    # The last two are where torchvision and Keras's cache have them.
    folders = [folder / known.name, folder, folder / known.torchvision / "raw", folder / known.torchvision]
    images, labels = (find(folders, _names(remote)) for remote in known.files[part])
    if images is not None and labels is not None:
        return _idx_part(known, part, [images, labels], setting, others)
    # Not in the folder itself: a train.parquet beside several sets may be of any of them.
    if (copy := find(folders[:1], PARQUET[part])) is not None:
        return _parquet_part(known, part, copy, setting)
    lacking = known.files[part][0 if images is None else 1]
    raise UserError(
        f"{setting} is {folder}, but {known.title}'s {lacking.name.removesuffix('.gz')} is not there: looked in "
        f"{', '.join(map(str, folders[:3]))} for {', '.join(_names(lacking))}, and in the first for {PARQUET[part][0]}"
        + (f"; {keras} is read with --data {keras}" if (keras := find(folders[:2], [f"{known.name}.npz"])) else "")
    )


def _idx_part(known: Known, part: str, paths: list[Path], setting: str, others: tuple[Known, ...]) -> Part:
    def contents() -> OpenedPart:
        for path, remote in zip(paths, known.files[part], strict=True):
            # The whole file, once for each state of it: digests of a few images would not find a damaged one.
            if (found := md5(path, remote.size)) != remote.md5:
                for other in others:
                    if any(found == each.md5 for pair in other.files.values() for each in pair):
                        raise UserError(
                            f"{path}: it is a file of {other.title}, another one than {known.title}'s {remote.name}: "
                            f"set training.data.source {other.name}, or put the right file there"
                        )
                raise UserError(
                    f"{path}: the MD5 of its content is {found}, that of {known.title} is {remote.md5}: it is damaged "
                    "or another set; other data in this format are read with --training.data.source idx"
                )
        return replace(idx.contents(*paths), divisor=BYTE, names=known.names)

    return Part(known.name, (known.name, *(file_identity(path, setting) for path in paths)), contents)


def _parquet_part(known: Known, part: str, path: Path, setting: str) -> Part:
    """Read a copy in Parquet, which holds what the IDX files do if their MD5s come out."""

    def contents() -> OpenedPart:
        images, labels = known.files[part]
        opened = columns.contents(tables.parquet, [path])
        count = len(opened.labels)
        numbers = plain(opened.labels, str(path))
        if numbers.dtype.kind != "i":
            raise UserError(f"{path}: its labels are names; those of {known.title} are numbers: it is another set")
        if opened.shape != (known.side, known.side):
            raise UserError(
                f"{path}: its images are {opened.shape}, those of {known.title} {known.side} x {known.side}"
            )
        # The MD5s are those of IDX files, so their headers are made again.
        raw = struct.pack(">II", 0x0801, count) + numbers.astype(np.uint8).tobytes()
        told = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        if told != labels.md5:
            raise UserError(f"{path}: its labels have the MD5 {told}, those of {known.title} {labels.md5}")
        head = struct.pack(">IIII", 0x0803, count, known.side, known.side)
        opened = replace(opened, divisor=BYTE, names=known.names)
        return checked(opened, count, [images.md5], lambda block, _: block, known.title, head)

    return Part(known.name, (known.name, "parquet", file_identity(path, setting)), contents)


def _remote_part(known: Known, part: str, patience: Patience | None, progress: Callable[[str], None]) -> Part:
    def contents() -> OpenedPart:
        # MNIST's were kept beside others before there was a second set of the same names.
        folder = "" if known.name == "mnist" else known.name
        images, labels = (
            downloaded(remote, folder, mirrors(known), patience, progress) for remote in known.files[part]
        )
        return replace(idx.contents(images, labels), divisor=BYTE, names=known.names)

    return Part(known.name, (known.name, *(remote.md5 for remote in known.files[part])), contents)


def _names(remote: Remote) -> list[str]:
    """Return the names that a local copy of a file goes by."""
    plain = remote.name.removesuffix(".gz")
    return [plain, f"{plain}.gz", dotted := plain.replace("-idx", ".idx"), f"{dotted}.gz"]

"""MNIST: its four files in a local folder, or downloaded on first use, and known by their MD5s.

What is in the files is for `idx` to read; how they get here is for `download`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ffpipe.data import cache, idx
from ffpipe.data.download import Patience, Remote, fetch
from ffpipe.data.gzipped import md5
from ffpipe.data.source import Contents, Part, file_identity
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded

CLASSES = 10
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)

Files = Mapping[str, tuple[Remote, Remote]]

# Images and labels of each part.
FILES: Files = {
    "train": (
        Remote("train-images-idx3-ubyte.gz", "6bbc9ace898e44ae57da46a324031adb", 47_040_016),
        Remote("train-labels-idx1-ubyte.gz", "a25bea736e30d166cdddb491f175f624", 60_008),
    ),
    "test": (
        Remote("t10k-images-idx3-ubyte.gz", "2646ac647ad5339dbf082846283269ea", 7_840_016),
        Remote("t10k-labels-idx1-ubyte.gz", "27ae3e4e09519cfbb04c329615203637", 10_008),
    ),
}


def parts(
    data_dir: str, progress: Callable[[str], None], files: Files = FILES, patience: Patience | None = None
) -> tuple[Part, Part]:
    """The training and the test part.

    data_dir: folder with local copies; empty: $FFPIPE_DATA; if that is not set either, opening a part downloads
    its files to the cache folder, telling `progress` in lines of text. Raises UserError where a folder is given
    and lacks a file.
    """
    given = data_dir or os.environ.get("FFPIPE_DATA", "")
    if not given:
        patience = patience or Patience()
        return (
            _remote_part(files["train"], patience, progress),
            _remote_part(files["test"], patience, progress),
        )
    setting = "execution.data_dir" if data_dir else "FFPIPE_DATA"
    folder = expanded(given)
    return _local_part(folder, files["train"], setting), _local_part(folder, files["test"], setting)


def mirrors() -> tuple[str, ...]:
    """Base URLs, in the order in which they are tried: $FFPIPE_MNIST_MIRRORS (separated by commas), else MIRRORS."""
    own = tuple(url.strip() for url in os.environ.get("FFPIPE_MNIST_MIRRORS", "").split(",") if url.strip())
    return own or MIRRORS


def _local_part(folder: Path, files: tuple[Remote, Remote], setting: str) -> Part:
    paths = [_find(folder, remote.name, setting) for remote in files]

    def contents() -> Contents:
        for path, remote in zip(paths, files, strict=True):
            if (found := md5(path, remote.size)) != remote.md5:
                raise UserError(
                    f"{path}: the MD5 of its content is {found}, that of MNIST is {remote.md5}: it is damaged or "
                    "another set; other data in this format are read with --training.data.source idx"
                )
        return idx.contents(*paths)

    return Part("mnist", ("mnist", *(file_identity(path, setting) for path in paths)), contents)


def _remote_part(files: tuple[Remote, Remote], patience: Patience, progress: Callable[[str], None]) -> Part:
    def contents() -> Contents:
        folder = cache.folder() / "downloads"
        images, labels = (fetch(remote, folder, mirrors(), patience, progress) for remote in files)
        return idx.contents(images, labels)

    return Part("mnist", ("mnist", *(remote.md5 for remote in files)), contents)


def _find(folder: Path, name: str, setting: str) -> Path:
    """The local copy of one file, by any of the names that it goes by. Raises UserError."""
    plain = name.removesuffix(".gz")
    names = [plain, f"{plain}.gz", dotted := plain.replace("-idx", ".idx"), f"{dotted}.gz"]
    folders = [folder / "mnist", folder]
    for path in (place / each for place in folders for each in names):
        if path.is_file():
            return path
    raise UserError(
        f"{setting} is {folder}, but MNIST's {plain} is not there: looked in {folders[0]} and {folders[1]} for "
        f"{', '.join(names)}"
    )

"""From a request (`training.data`) to the three splits: which source, which rows, and whether the parts fit together.

It must not know a file format; whatever is wrong with a request is said here or by the source, in one line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data import cache, cifar10, digits, idx, mnist, npz, parquet, text
from ffpipe.data.arrow import Stored
from ffpipe.data.examples import Examples
from ffpipe.data.source import Part
from ffpipe.system import rng
from ffpipe.system.errors import UserError, escaped

_KNOWN_CLASSES = {
    "digits": digits.CLASSES,
    "mnist": mnist.CLASSES,
    "fashion-mnist": mnist.CLASSES,
    "cifar10": cifar10.CLASSES,
}


@dataclass(frozen=True)
class Splits:
    """Three splits of the same shape and classes; `validation` may be empty.

    others: training images of the classes beyond `data.positive_classes`, for negative data; else empty.
    """

    train: Examples
    validation: Examples
    test: Examples
    others: Examples

    @property
    def most_in_sight(self) -> int:
        """Bytes that a process which feeds may come to have of the files behind the splits."""
        return sum(stored.most_in_sight for stored in self.stored)

    @cached_property
    def fingerprint(self) -> str:
        """Of the data as a whole (arrow.py): the same files give the same, on any host."""
        return " ".join(stored.fingerprint for stored in self.stored)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """The canonical files behind the splits: of the training part, and of the test part where it has its own."""
        train, test = self.train.stored, self.test.stored
        return (train,) if test.path == train.path else (train, test)

    @property
    def features(self) -> int:
        return self.train.features

    @property
    def classes(self) -> int:
        return self.train.classes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.shape


def _to_terminal(line: str) -> None:
    """Say it to a person who waits; a log keeps stderr for what went wrong."""
    if sys.stderr.isatty():
        print(escaped(line), file=sys.stderr, flush=True)


def load_splits(data: Data, data_dir: str = "", *, progress: Callable[[str], None] = _to_terminal) -> Splits:
    """Find, convert where needed, and split.

    data_dir: folder with local copies of known sets; empty: $FFPIPE_DATA. progress: takes a line of text now and
    then while something is downloaded. The same request on the same files gives the same splits in every process.
    Raises UserError: one line saying what is wrong, where, and what was expected.
    """
    train_part, test_part = _parts(data, data_dir, progress)
    if test_part is None and not data.test_count:
        raise UserError(
            f"training.data.source {data.source!r} has no test part here: set training.data.test_count to the number "
            "of examples to set aside"
            + ("" if data.source in (*_KNOWN_CLASSES, "text") else ", or name files in training.data.test")
        )
    if test_part is not None and data.test_count:
        raise UserError(
            f"training.data.test_count is {data.test_count}, but the source has a test part of its own: set it to 0"
        )
    stored = cache.stored(train_part, data.classes or _KNOWN_CLASSES.get(data.source, 0))
    test = [] if test_part is None else [_fitting(cache.stored(test_part, stored.classes), stored)]
    return split(data, [stored, *test])


def split(data: Data, stored: Sequence[Stored]) -> Splits:
    """The splits of canonical files: of the training part, and of the test part where the source has one.

    Raises UserError.
    """
    train, validation, set_aside = _split(len(stored[0]), data)
    if len(stored) > 1:
        set_aside = np.arange(len(stored[-1]))
    return _by_class(stored[0], stored[-1], (train, validation, set_aside), data.positive_classes)


def splits_from(data: Data, data_dir: str, files: Sequence[str]) -> Splits:
    """The splits of a config: from files that were sent here, or wherever they are found."""
    return split(data, [cache.open_stored(name) for name in files]) if files else load_splits(data, data_dir)


def _by_class(
    stored: Stored, test_stored: Stored, rows: tuple[NDArray[np.int64], ...], positive_classes: int
) -> Splits:
    """The splits from the rows of train, validation and test; of the positive classes alone where there are such."""
    train, validation, test = rows
    if not positive_classes:
        nothing = Examples(stored, np.arange(0))
        return Splits(Examples(stored, train), Examples(stored, validation), Examples(test_stored, test), nothing)
    if not 2 <= positive_classes < stored.classes:
        raise UserError(
            f"training.data.positive_classes is {positive_classes}, but there are {stored.classes} classes: "
            f"give 2 to {stored.classes - 1}, or 0 for all"
        )

    def of(source: Stored, chosen: NDArray[np.int64]) -> Examples:
        return Examples(source, chosen[source.labels(chosen) < positive_classes], positive_classes)

    beyond = train[stored.labels(train) >= positive_classes]
    return Splits(of(stored, train), of(stored, validation), of(test_stored, test), Examples(stored, beyond))


def _parts(data: Data, data_dir: str, progress: Callable[[str], None]) -> tuple[Part, Part | None]:
    """The training part, and the test part if the source has one."""
    if data.source in _KNOWN_CLASSES:
        for field, files in (("train", data.train), ("test", data.test)):
            if files:
                raise UserError(
                    f"training.data.{field} names files, but training.data.source {data.source!r} reads none: leave it "
                    "empty, or set training.data.source to idx, npz or parquet"
                )
        if data.source == "digits":
            return digits.part(), None
        if data.source == "cifar10":
            return cifar10.parts(data_dir, progress)
        known = mnist.MNIST if data.source == "mnist" else mnist.FASHION_MNIST
        return mnist.parts(data_dir, progress, known)
    if data.source == "text":
        return _text(data, data_dir, progress), None
    if not data.train:
        raise UserError(
            f"training.data.train is empty, but training.data.source {data.source!r} reads files: name them"
        )
    train = _part_of_files("train", data.train, data)
    if data.test:
        return train, _part_of_files("test", data.test, data)
    return train, npz.keras_test(Path(data.train[0]), "training.data.train") if data.source == "npz" else None


def _text(data: Data, data_dir: str, progress: Callable[[str], None]) -> Part:
    """The one part of a text, which is split by position: training first, then validation, then test."""
    if data.test or len(data.train) > 1:
        raise UserError(
            "training.data.source 'text' reads one file and tests on its end: name one file in training.data.train, "
            "and set training.data.test_count to the sequences at its end"
        )
    if data.split_seed != -1:
        raise UserError(
            "training.data.split_seed would shuffle the sequences of a text, so that training and test stand side by "
            "side: set it to -1"
        )
    if data.train:
        return text.part(Path(data.train[0]), "training.data.train", data.symbols, data.length)
    return text.shakespeare(data_dir, progress, data.symbols, data.length)


def _part_of_files(role: Literal["train", "test"], names: tuple[str, ...], data: Data) -> Part:
    field, paths = f"training.data.{role}", [Path(name) for name in names]
    if data.source == "parquet":
        return parquet.part(paths, data.image_column, data.label_column, field)
    if data.source == "idx":
        if len(paths) != 2:
            raise UserError(f"{field} names {len(paths)} file(s), but idx takes two: IMAGES LABELS")
        return idx.part(paths[0], paths[1], field)
    if len(paths) != 1:
        raise UserError(f"{field} names {len(paths)} files, but npz takes one")
    return npz.part(paths[0], role, field)


def _split(count: int, data: Data) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the training part for train, validation and (where the source has none) test."""
    aside = data.test_count + data.validation
    if aside >= count:
        raise UserError(
            f"training.data.test_count {data.test_count} and training.data.validation {data.validation} set aside "
            f"{aside} examples, but there are {count}: at least one has to be left for training"
        )
    shuffled = data.split_seed != -1
    order = rng.generator(data.split_seed, "split").permutation(count) if shuffled else np.arange(count)
    rest, validation, test = np.split(order, [count - aside, count - data.test_count])
    return rest[: data.train_limit or None], validation, test


def _fitting(test: Stored, train: Stored) -> Stored:
    """The test part, or a UserError where a network for the training part cannot read it."""
    if (test.shape, test.dtype) != (train.shape, train.dtype):
        raise UserError(
            f"the test images are {test.dtype} of shape {test.shape}, but the training images are {train.dtype} of "
            f"shape {train.shape} (bytes are scaled to [0, 1], other numbers are not): expected the same of both"
        )
    return test

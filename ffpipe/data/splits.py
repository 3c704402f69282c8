"""The three splits of a request (`training.data`): which source, which rows, and whether the parts fit together.

It must not know a file format; whatever is wrong with a request is said here or by the source, in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data import cache, npz, text
from ffpipe.data.arrow import Stored
from ffpipe.data.examples import Examples
from ffpipe.data.remote import fetched, to_terminal
from ffpipe.data.scale import Given
from ffpipe.data.source import Part, shaped
from ffpipe.data.sources import KNOWN_SETS, part_of_files, refuse_other_columns
from ffpipe.system import rng
from ffpipe.system.errors import UserError, refuse_other
from ffpipe.system.files import expanded


@dataclass(frozen=True)
class Splits:
    """Three splits of the same shape and classes; `validation` may be empty.

    others: training images of the classes beyond `data.positive_classes`, for negative data; else empty. is_text: they
    are sequences of symbols, which have no classes of their own. mixed: the source was shuffled before parts of it were
    set aside.
    """

    train: Examples
    validation: Examples
    test: Examples
    others: Examples
    is_text: bool = False
    mixed: bool = True

    @property
    def most_in_sight(self) -> int:
        """Bytes that a process which feeds may come to have of the files behind the splits."""
        return sum(stored.most_in_sight for stored in self.stored)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the data as a whole (arrow.py): the same files give the same, on any host."""
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

    @property
    def found(self) -> tuple[str, ...]:
        """Findings in files of the user's, as a line for a person, and warnings."""
        meaning, train, test = self.train.stored.meaning, self.train.stored, self.test.stored
        shape = " x ".join(map(str, self.shape))
        set_aside = "" if test is train else f", {len(test):,} to test on"
        kinds = ("sequences", "symbols") if self.is_text else ("images", "classes")
        first = f"data: {len(train):,} {kinds[0]} of {shape}, {meaning.classes.count} {kinds[1]}{set_aside}"
        said = [each for each in (meaning.found, meaning.scale.found, meaning.labels) if each]
        warnings = [each for each in said if each.startswith("warning")]
        # All else that can be said of a test part is so of the training part too.
        if test is not train and test.meaning.found.startswith("warning"):
            warnings.append(test.meaning.found)
        warnings += self._of_one_class()
        return ("; ".join([first, *(each for each in said if each not in warnings)]), *warnings)

    def _of_one_class(self) -> Iterator[str]:
        """Yield a warning for each part from the end of a source that is sorted by class, which measures next to
        nothing."""
        if self.mixed or self.is_text:
            return
        for name, part in (("validate", self.validation), ("test", self.test)):
            # A single example has one class wherever it is from.
            if part.stored is self.train.stored and len(part) > 1 and self.classes > 1:
                labels = part.labels(np.arange(len(part)))
                if (labels == labels[0]).all():
                    yield (
                        f"warning: the {len(part):,} examples set aside to {name} on are the last ones and all of one "
                        "class: give training.data.split_seed 0, by which they are drawn"
                    )

    @property
    def given(self) -> Given:
        """The numbers of the training images as they came."""
        scale = self.train.stored.meaning.scale
        return Given(scale.given.kind, scale.divisor, scale.unit)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes; empty where they are their numbers."""
        # Cut, since positive classes are the first ones.
        return self.train.stored.meaning.classes.names[: self.classes]


def load_splits(data: Data, data_dir: str = "", *, progress: Callable[[str], None] = to_terminal) -> Splits:
    """Find, convert where needed, and split.

    data_dir: folder with local copies of known sets; empty: $FFPIPE_DATA. progress: takes a line of text now and
    then while something is downloaded. The same request on the same files gives the same splits in every process.
    Raises UserError: one line saying what is wrong, where, and what was expected.
    """
    refuse_other(data, Data, "data", "an ffpipe.Data, as config.training.data")
    train = fetched(data.train, "training.data.train", progress)
    test = fetched(data.test, "training.data.test", progress)
    train_part, test_part = _parts(replace(data, train=train, test=test), data_dir, progress)
    if test_part is None and not data.test_count:
        raise UserError(
            f"training.data.source {data.source!r} has no test part here: set training.data.test_count to the number "
            "of examples to set aside"
            + ("" if data.source in (*KNOWN_SETS, "text") else ", or name files in training.data.test")
        )
    if test_part is not None and data.test_count > 0:
        raise UserError(
            f"training.data.test_count is {data.test_count}, but the source has a test part of its own: set it to 0"
        )
    parts = [shaped(part, data.shape) for part in (train_part, test_part) if part is not None]
    known = KNOWN_SETS.get(data.source)
    # The training part first: classes and scale of a test part are judged by it.
    stored = [cache.stored(parts[0], data.classes or (known.classes if known else 0), data.scale)]
    stored += [cache.stored(part, scale=data.scale, like=stored[0]) for part in parts[1:]]
    own, other = stored[0].shape, stored[-1].shape
    if other != own:
        raise UserError(f"the test images have the shape {other}, but the training images {own}: expected the same")
    return split(data, stored)


def split(data: Data, stored: Sequence[Stored]) -> Splits:
    """Return the splits of canonical files, of the training part and of the test part where the source has one; of the
    positive classes alone where there are such. Raises UserError."""
    own, of_test = stored[0], stored[-1]
    # If the test part has files of its own, none of the training part is set aside for it.
    has_test = len(stored) > 1
    train, validation, test = _split(len(own), replace(data, test_count=0) if has_test else data)
    if has_test:
        test = np.arange(len(of_test))
    positive = data.positive_classes
    if positive and not 2 <= positive < own.classes:
        raise UserError(
            f"training.data.positive_classes is {positive}, but there are {own.classes} classes: "
            f"give 2 to {own.classes - 1}, or 0 for all"
        )

    def examples(source: Stored, rows: NDArray[np.int64]) -> Examples:
        return Examples(source, rows[source.labels(rows) < positive] if positive else rows, positive)

    # From the training rows alone: no image that tests or validates becomes a negative.
    beyond = train[own.labels(train) >= positive] if positive else train[:0]
    parts = (examples(own, train), examples(own, validation), examples(of_test, test), Examples(own, beyond))
    for name, part in zip(("training", "test"), (parts[0], parts[2]), strict=True):
        if positive and not len(part):
            raise UserError(
                f"training.data.positive_classes is {positive}, but no example of the {name} part is of the first "
                f"{positive} classes: give more of them, or other data"
            )
    return Splits(*parts, is_text=data.source == "text", mixed=data.split_seed != -1)


def splits_from(data: Data, data_dir: str, files: Sequence[str]) -> Splits:
    """Return the splits of a config: from files that were sent here, or wherever they are found."""
    return split(data, [cache.open_stored(name) for name in files]) if files else load_splits(data, data_dir)


def _parts(data: Data, data_dir: str, progress: Callable[[str], None]) -> tuple[Part, Part | None]:
    """Return the training part, and the test part if the source has one."""
    if known := KNOWN_SETS.get(data.source):
        for field, files in (("train", data.train), ("test", data.test)):
            if files:
                raise UserError(
                    f"training.data.{field} names files, but training.data.source {data.source!r} reads none: leave it "
                    "empty, or set training.data.source to one that reads files, such as folder, csv, npz or parquet"
                )
        return known.parts(data_dir, progress)
    if data.source == "text":
        return _text(data, data_dir, progress), None
    if not data.train:
        raise UserError(
            f"training.data.train is empty, but training.data.source {data.source!r} reads files: name them"
        )
    train = part_of_files("train", data.train, data)
    if data.test:
        test = part_of_files("test", data.test, data)
        refuse_other_columns(data, data.source, data.test, "training.data.test")
        return train, test
    if data.source == "npz" and len(data.train) == 1:
        return train, npz.test_part(expanded(data.train[0]), data.arrays, "training.data.train")
    return train, None


def _text(data: Data, data_dir: str, progress: Callable[[str], None]) -> Part:
    """Return the one part of a text, which is split by position: training first, then validation, then test."""
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
        return text.part(expanded(data.train[0]), "training.data.train", data.symbols, data.length)
    return text.shakespeare(data_dir, progress, data.symbols, data.length)


def _split(count: int, data: Data) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the training part for train, validation and (where the source has none) test."""
    tenth = max(1, count // 10)
    test_count = tenth if data.test_count < 0 else data.test_count
    aside = test_count + (tenth if data.validation < 0 else data.validation)
    if aside >= count:
        raise UserError(
            f"training.data.test_count {data.test_count} and training.data.validation {data.validation} set aside "
            f"{aside} examples, but there are {count}: at least one has to be left for training"
        )
    shuffled = data.split_seed != -1
    # Validation and test come from the end, so that a limit on the training examples moves neither.
    order = rng.generator(data.split_seed, "split").permutation(count) if shuffled else np.arange(count)
    rest, validation, test = np.split(order, [count - aside, count - test_count])
    return rest[: data.train_limit or None], validation, test

"""Labels as data have them, and the classes 0, 1, ... that they stand for.

This module must not know a file format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.system.errors import UserError

# An integer as large as this is an identifier or a damaged file; as a class number it would be allocated for.
MOST_CLASSES = 1 << 20
# Names that a message spells out.
SPELLED = 12
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)(\.0*)?")


@dataclass(frozen=True)
class Classes:
    """The classes of a set.

    names: for people, in the order of the classes; empty: their numbers. mapped: whether labels are found by name,
    since data have others than 0 to count - 1.
    """

    count: int
    names: tuple[str, ...] = ()
    mapped: bool = False

    def numbers(self, labels: NDArray[Any], where: str, names: tuple[str, ...] = ()) -> NDArray[np.int64]:
        """Return the class numbers (n,) of plain labels (n,). names: those that these data have for their numbers, in
        whatever order. Raises UserError for the first label that is none of the classes."""
        if labels.dtype.kind == "i" and self.names and names and (self.mapped or names != self.names):
            check(labels, len(names), where)
            labels = np.array(names)[labels]
        if not self.mapped and labels.dtype.kind == "i":
            check(labels, self.count, where)
            return labels.astype(np.int64, copy=False)
        if not self.names:
            raise UserError(f"{where}: labels are names such as {str(labels[0])!r}; expected integers")
        values, inverse = np.unique(labels, return_inverse=True)
        number_of = {name: number for number, name in enumerate(self.names)}
        numbers = np.array([number_of.get(str(value), -1) for value in values], np.int64)[inverse]
        if len(wrong := np.flatnonzero(numbers < 0)):
            raise UserError(
                f"{where}: the label {str(labels[wrong[0]])!r} at row {wrong[0]} is none of the training part's "
                f"classes: {', '.join(some_of(self.names))}"
            )
        return numbers

    def found(self, numbers: NDArray[np.int64]) -> str:
        """Describe what a person should know of the labels of a training part; empty where they are 0 to count - 1."""
        said = []
        if self.mapped or self.names:
            said.append(f"classes 0 to {self.count - 1} are {', '.join(some_of(self.names))}")
        if len(absent := np.flatnonzero(np.bincount(numbers, minlength=self.count) == 0)):
            said.append(f"no example is of class {', '.join(some_of(list(map(str, absent))))}")
        return "; ".join(said)


def plain(labels: NDArray[Any], where: str) -> NDArray[Any]:
    """Return labels as int64 or str, shape (n,), of whatever form data have them in.

    labels: (n,) or (n, 1) of integers, bools, floats that are whole, or text; or one-hot rows (n, classes). Text that
    is whole numbers throughout becomes those. Raises UserError naming the first row that is none of it.
    """
    if not len(labels):
        raise UserError(f"{where}: there are no examples")
    if labels.ndim == 2 and labels.shape[1] > 1:
        return _positions(labels, where)
    if labels.ndim > 2 or (labels.ndim == 2 and labels.shape[1] != 1):
        raise UserError(f"{where}: labels have the shape {labels.shape}; expected one an example, or one-hot rows")
    labels = labels.reshape(-1)
    if labels.dtype.kind in "OSU":
        return _of_text(labels, where)
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):  # the limit is beyond float16
            # Negated, so that NaN, which compares false, is wrong too.
            wrong = np.flatnonzero(~(np.abs(labels) <= MOST_CLASSES) | (labels != np.rint(labels)))
        if len(wrong):
            raise UserError(f"{where}: the label {labels[wrong[0]]} at row {wrong[0]} is not a whole number")
        return labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        raise UserError(f"{where}: labels are {labels.dtype}; expected integers, whole floats, names or one-hot rows")
    # As int64 it would turn negative.
    if labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{where}: the label {labels.max()} is not a class number")
    return labels.astype(np.int64)


def classes_of(labels: NDArray[Any], where: str, count: int = 0, names: tuple[str, ...] = ()) -> Classes:
    """Find the classes of a training part.

    labels: plain ones, (n,). count: how many classes there are, where that is known; labels are their numbers then.
    names: of the classes, where the data have them. Otherwise integers from 0 on of which most occur are class
    numbers, and other labels are mapped, in their own order. Raises UserError.
    """
    if labels.dtype.kind == "i":
        if count or names:
            known = Classes(count or len(names), names if count in (0, len(names)) else ())
            check(labels, known.count, where)
            return known
        values = np.unique(labels)
        if values[-1] >= MOST_CLASSES:
            raise UserError(
                f"{where}: the label {values[-1]} at row {int(labels.argmax())} is not a likely class number; expected "
                "0 to the number of classes - 1 (training.data.classes says how many there are)"
            )
        largest = int(values[-1])
        if values[0] == 0 and 2 * len(values) > largest:
            return Classes(largest + 1)
    else:
        values = np.unique(labels)
        if names and set(map(str, values)) <= set(names):
            return Classes(len(names), names, mapped=True)
    if count and len(values) != count:
        raise UserError(f"{where}: there are {len(values)} names of classes, but training.data.classes is {count}")
    # A column of identifiers, which would make a layer as wide as there are examples.
    if 2 * len(values) > len(labels) and len(values) > 1000:
        raise UserError(f"{where}: {len(values):,} of {len(labels):,} labels differ, so they are not classes")
    return Classes(len(values), tuple(map(str, values)), mapped=True)


def check(labels: NDArray[np.int64], count: int, where: str) -> None:
    """Raise UserError for the first label outside 0..count-1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise UserError(
            f"{where}: the label {labels[wrong[0]]} at row {wrong[0]} is not in 0..{count - 1}; there are {count} "
            "classes (training.data.classes; 0 there: that of the known set, else what the training labels are)"
        )


def some_of(names: Sequence[str]) -> list[str]:
    """Return the names that a message spells out: all, or the first and last of many."""
    return [*names] if len(names) <= SPELLED else [*names[: SPELLED - 2], "...", names[-1]]


def _positions(rows: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return the position of the one in each row (n, classes) of zeros and a one."""
    if rows.dtype.kind not in "biuf":
        raise UserError(f"{where}: labels are {rows.dtype} rows of {rows.shape[1]}; expected one label an example")
    wrong = np.flatnonzero(((rows != 0) & (rows != 1)).any(axis=1) | ((rows == 1).sum(axis=1) != 1))
    if len(wrong):
        raise UserError(
            f"{where}: labels have {rows.shape[1]} numbers a row, but row {wrong[0]} is not one-hot: expected a one "
            "and zeros, or one label an example"
        )
    positions: NDArray[np.int64] = rows.argmax(axis=1).astype(np.int64)
    return positions


def _of_text(labels: NDArray[Any], where: str) -> NDArray[Any]:
    values, inverse = np.unique([_word(label, row, where) for row, label in enumerate(labels)], return_inverse=True)
    # As fetch_openml gives MNIST's. Numbers of up to 15 digits pass through a float unchanged.
    if all(_WHOLE.fullmatch(value) and len(value) < 16 and abs(float(value)) < MOST_CLASSES for value in values):
        return np.array([int(float(value)) for value in values], np.int64)[inverse]
    return values[inverse]


def _word(label: Any, row: int, where: str) -> str:
    if isinstance(label, bytes):
        label = label.decode("utf-8", "backslashreplace")
    if isinstance(label, float | int | np.number | np.bool_):
        return str(int(label)) if label == int(label) else str(label)
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"{where}: the label at row {row} is {label!r}; expected a name or a number")
    return writable(label.strip())


def writable(name: str) -> str:
    """Return the name of a class as manifests can hold it: bytes of a folder's name that are not UTF-8 spelt out."""
    return name.encode("utf-8", "backslashreplace").decode()

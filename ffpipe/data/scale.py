"""The divisor of the numbers of images, chosen so that the same picture trains the same however its numbers came.

This module must not know a file format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ffpipe.data.source import OpenedPart
from ffpipe.system.errors import UserError

BYTE = 255
# Whole numbers whose largest is within these are bytes, whatever type they have: beside pixels of up to 255 a label
# of strength 1 would not be seen.
LEAST_BYTE = 128
# Kinds of dtypes of whole numbers.
_WHOLE = ("i", "u")
# Bytes whose largest is smaller are probably something else.
DIM = 64


@dataclass(frozen=True)
class Scale:
    """A divisor of images, and the dtype in which they are stored.

    given: their dtype. unit: whether they are within 0 to 1 then. found: what a person should know of it.
    """

    divisor: float
    stored: np.dtype[Any]
    given: np.dtype[Any]
    unit: bool = True
    found: str = ""


@dataclass(frozen=True)
class Range:
    """The numbers of a part: the lowest, the highest, and whether all are whole."""

    low: float
    high: float
    whole: bool

    @classmethod
    def of(cls, contents: OpenedPart) -> Range:
        """Read all of it once."""
        low, high, whole = np.inf, -np.inf, True
        for block in contents.blocks():
            if block.size:
                low, high = min(low, float(block.min())), max(high, float(block.max()))
                whole = whole and (block.dtype.kind != "f" or bool((block == np.rint(block)).all()))
        return cls(low, high, whole)

    @property
    def bytes(self) -> bool:
        """True where the numbers could be bytes."""
        return self.whole and self.low >= 0 and self.high <= BYTE


@dataclass(frozen=True)
class Given:
    """The numbers of the user's own images that a network was trained on. kind: NumPy's, of their dtype; empty: there
    were none. divisor: what they were divided by. unit: whether they were within 0 to 1 then; None: of a run of before
    this was kept."""

    kind: Annotated[str, Meta(max_length=1)] = ""
    divisor: Annotated[float, Meta(ge=0)] = 1.0
    unit: bool | None = None

    @property
    def beyond_bytes(self) -> bool:
        """True where they were floats that bytes do not have, whatever these are divided by."""
        return self.kind == "f" and self.unit is False

    def divisor_of_bytes(self, asked: float = 0.0) -> float:
        """Return what bytes are divided by that come from no file. asked: what the config says; known sets leave it
        alone."""
        if self.kind in _WHOLE:
            return self.divisor
        return asked if asked and self.kind else BYTE

    def divisor_of_pictures(self, where: str, asked: float = 0.0) -> float:
        """Return what pictures are divided by: 255, unless the network was trained on whole numbers that were divided
        by what the config says (asked). where: names them. Raises UserError where it was trained on numbers that
        pictures do not have."""
        if self.kind in _WHOLE and self.divisor == asked:
            return asked
        if self.unit is False:
            raise UserError(
                f"{where}: pictures have numbers from 0 to 1, but the network was trained on numbers beyond these: "
                "give arrays of such"
            )
        return BYTE

    def divisor_of(self, contents: OpenedPart, asked: float = 0.0) -> float:
        """Return what other images are divided by: as much as those where they are of the same kind, else what the
        config says (asked), else what a training part of them would be, and 255 for whole numbers beyond 0 and 1.
        Raises UserError for whole numbers that are not bytes, and for another kind than one that went beyond 0 to
        1."""
        if contents.divisor:
            return self.divisor_of_pictures(contents.where, asked)
        kind, whole = contents.dtype.kind, contents.dtype.kind in _WHOLE
        alike = kind == self.kind or (whole and self.kind in _WHOLE)
        if asked and self.kind and not alike:  # a known set is divided by what is known of it
            return asked
        if alike and contents.dtype == np.uint8 and self.divisor != 1:  # these need not be read
            return self.divisor
        numbers = Range.of(contents)
        if alike:
            divisor = self.divisor if asked else _beside(numbers, self.divisor, self.unit)
        elif self.unit is False:
            # A CSV has floats, whatever its numbers were before.
            if not (numbers.whole and kind == "f" and self.kind in _WHOLE):
                raise UserError(
                    f"{contents.where}: numbers of images are {contents.dtype}, but the network was trained on numbers "
                    "of another kind, which go beyond 0 to 1: give such"
                )
            divisor = self.divisor
        elif whole:
            divisor = 1 if numbers.bytes and numbers.high <= 1 else BYTE
        else:
            divisor = BYTE if numbers.bytes and numbers.high >= LEAST_BYTE else 1
        if whole and divisor == BYTE and not numbers.bytes:
            raise UserError(
                f"{contents.where}: it has whole numbers beyond 0 to 255; give bytes, or floats from 0 to 1"
            )
        return divisor


def _beside(numbers: Range, divisor: float, unit: bool | None) -> float:
    """Return what numbers are divided by whose dtype is that of training's numbers: as much as these, unless one of
    both are bytes and the others no larger than 1. unit: as in Given."""
    # Those that are divided by 255 unasked were whole.
    if divisor == BYTE and not numbers.whole and numbers.high <= 1:
        return 1
    if divisor == 1 and unit and numbers.bytes and numbers.high >= LEAST_BYTE:
        return BYTE
    return divisor


def scale_of(contents: OpenedPart, asked: float = 0.0) -> Scale:
    """Decide for a training part. asked: what to divide by; 0: 255 where the numbers are bytes, else 1."""
    given = contents.dtype
    bytes_ = given == np.uint8
    stored = np.dtype(np.uint8) if bytes_ or given.kind == "b" else np.dtype(np.float32)
    if contents.divisor:
        other = asked not in (0, contents.divisor)
        said = f"warning: training.data.scale is left alone: these images are divided by {contents.divisor:g}"
        return Scale(contents.divisor, stored, given, found=said if other else "")
    if given.kind == "b":
        return Scale(asked or 1, stored, given)
    # A pass over all images, which parts whose source knows its numbers are spared.
    numbers = Range.of(contents)
    reach = f"numbers of images reach {numbers.high:g}"
    if asked:
        return Scale(asked, stored, given, numbers.low >= 0 and numbers.high <= asked)
    if bytes_ and numbers.high == 1:
        return Scale(1, stored, given, found="images are of 0 and 1")
    if bytes_ and numbers.high < DIM:
        found = f"warning: {reach} and are divided by 255: training.data.scale divides them by another number"
        return Scale(BYTE, stored, given, found=found)
    if bytes_:
        return Scale(BYTE, stored, given)
    if numbers.bytes and numbers.high >= LEAST_BYTE:
        return Scale(BYTE, np.dtype(np.uint8), given, found=f"{reach} and are divided by 255")
    if numbers.high > 1 or numbers.low < 0:
        found = f"numbers of images are {numbers.low:g} to {numbers.high:g}, not 0 to 1, and taken as they are"
        return Scale(1, stored, given, False, f"warning: {found}: training.data.scale divides them")
    return Scale(1, stored, given)


def scale_like(contents: OpenedPart, training: Scale, asked: float = 0.0) -> Scale:
    """Decide for a test part: as for the training part where both hold the same kind of numbers, on the same scale.

    Raises UserError where they do not, and one of them is not within 0 to 1 when it is scaled.
    """
    if contents.dtype != training.given or contents.divisor:
        scale = scale_of(contents, asked)
        if (scale.unit and training.unit) or (scale.divisor, scale.stored) == (training.divisor, training.stored):
            return scale
        raise UserError(
            f"{contents.where}: numbers of images are {contents.dtype}, but those of the training part "
            f"{training.given}, and one of both goes beyond 0 to 1 when it is scaled: set training.data.scale, or give "
            "the same kind in both"
        )
    if contents.dtype == np.uint8 and training.divisor != 1:  # these need not be read
        return training
    numbers = Range.of(contents)
    if not asked and _beside(numbers, training.divisor, training.unit) != training.divisor:
        return scale_of(contents)
    # As bytes these would be cut or wrapped round.
    if training.stored == np.uint8 and contents.dtype.kind in "if" and not numbers.bytes:
        return replace(training, stored=np.dtype(np.float32), unit=False)
    return training


def scaled(contents: OpenedPart, scale: Scale) -> OpenedPart:
    """Scale the blocks of contents to what is stored. Numbers that overflow become infinite, which the writer
    refuses."""

    @np.errstate(over="ignore", invalid="ignore")
    def stored(block: NDArray[Any]) -> NDArray[Any]:
        return block.astype(scale.stored, copy=False)

    return replace(contents, dtype=scale.stored, divisor=scale.divisor, blocks=lambda: map(stored, contents.blocks()))

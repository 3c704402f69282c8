"""Labelled images in tables: encoded pictures, lists of numbers of any depth, or a column a pixel.

It reads the columns that it needs, a few rows at a time, from one file or several with the same columns. It must
not know how a set is split, nor the format of a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ffpipe.data import images, source, values
from ffpipe.data.labels import plain, some_of
from ffpipe.data.source import BLOCK_BYTES, OpenedPart, Part
from ffpipe.data.tables import Table, class_names, holds_images, is_number, is_numbers
from ffpipe.system.errors import UserError, nearest, refusing

# A row group may hold gigabytes, so rows are asked for some at a time: as many as fit BLOCK_BYTES when decoded, judged
# by the first, and never more than these, should the first be small by chance.
_MOST_ROWS = 512
# Names of a column of labels where `training.data.label_column` names none of the columns.
DEFAULT_LABEL = "label"
_OTHER_LABELS = ("labels", "class", "target", "y", "digit", "category")

# pandas' row numbers: as to_csv, read_csv and to_parquet name them.
_ROW_NUMBERS = re.compile(r"|Unnamed: 0|__index_level_\d+__")

OpenTable = Callable[[Path], Table]


@dataclass(frozen=True)
class Wanted:
    """The user's choice of columns.

    image: name of the column of images; empty: found. label: of the labels; None: no column is of labels. mode:
    Pillow's name of the colours of encoded pictures; empty: what all of them can be. size: height and width of encoded
    pictures; empty: as they are.
    """

    image: str = ""
    label: str | None = DEFAULT_LABEL
    mode: str = ""
    size: tuple[int, ...] = ()


@dataclass(frozen=True)
class Columns:
    """label: name of the column of labels; None: they are not read. images: the column of images, or one for each
    pixel. read: what of them is read. kind: type of the images."""

    label: str | None
    images: tuple[str, ...]
    read: tuple[str, ...]
    kind: pa.DataType

    @property
    def encoded(self) -> bool:
        """True where images are PNG or JPEG bytes."""
        return not (self.pixels or is_numbers(self.kind))

    @property
    def pixels(self) -> bool:
        """True where each column has one pixel of every image."""
        return len(self.images) > 1 or is_number(self.kind)


def part(name: str, open_table: OpenTable, paths: Sequence[Path], wanted: Wanted, field: str) -> Part:
    """Return the part in these files, in this order."""
    identity = tuple(source.file_identity(path, field) for path in paths)
    return Part(name, (name, identity, wanted), lambda: contents(open_table, paths, wanted))


def contents(
    open_table: OpenTable, paths: Sequence[Path], wanted: Wanted | None = None, block_bytes: int = BLOCK_BYTES
) -> OpenedPart:
    """Read the schemas, the labels and the first image. Raises UserError: unreadable, no such column, not images."""
    wanted = wanted or Wanted()
    tables = [open_table(path) for path in paths]
    columns = _columns(tables[0], wanted)
    for table in tables[1:]:
        if (other := _columns(table, wanted)) != columns:
            raise UserError(
                f"{table.path}: its images are in {_spelled(other)}, but those of {paths[0]} in {_spelled(columns)}; "
                "expected the same"
            )
    label = columns.label
    names = _names_of_classes(tables, label)
    labels = [np.empty(0)] if label is None else [piece for table in tables for piece in values.labels(table, label)]
    if not labels:
        raise UserError(f"{paths[0]}: there are no examples")
    if len(kinds := {piece.shape[1:] for piece in labels}) > 1:
        shapes = ", ".join(map(str, sorted(kinds)))
        raise UserError(
            f"{', '.join(map(str, paths))}: the labels in {label!r} have the shapes {shapes}; expected one an example, "
            "or one-hot rows of one length"
        )
    if len({piece.dtype.kind == "U" for piece in labels}) > 1:  # 1.0 of one file and "1" of another are one class
        labels = [piece if piece.dtype.kind == "U" else plain(piece, str(paths[0])).astype(str) for piece in labels]
    mode, found = wanted.mode, ""
    if columns.encoded and not mode:
        mode, found = images.common(
            # A view, where as_py would copy every picture for its header.
            images.mode_of(pa.BufferReader(each.as_buffer()))
            for table in tables
            for _, column in values.read(table, columns.images[0], columns.read, _MOST_ROWS)
            for each in column
        )
    if label != wanted.label:
        where = f"the column {label!r}" if tables[0].headed else "the first column"
        found = "; ".join(filter(None, [f"labels are in {where}", found]))
    decode = partial(images.decode, mode=mode, size=wanted.size)
    first = next((block for table in tables for block in _blocks(table, columns, decode, rows=1)), None)
    if first is None:
        raise UserError(f"{paths[0]}: there are no images")
    shape = source.check_shape(first.shape[1:], f"{paths[0]}: {_spelled(columns)}")
    rows = min(_MOST_ROWS, max(1, block_bytes // first.nbytes))

    def blocks() -> Iterator[NDArray[Any]]:
        for table in tables:
            row = 0
            for block in _blocks(table, columns, decode, rows):
                if block.shape[1:] != first.shape[1:]:
                    hint = f": {source.one_size(shape)}" if columns.encoded else ""
                    raise UserError(
                        f"{table.path}: the image at row {row} has shape {block.shape[1:]}, but the first of all has "
                        f"{shape}{hint}"
                    )
                row += len(block)
                yield block.reshape(len(block), -1)

    return OpenedPart(
        where=", ".join(map(str, paths)),
        shape=_square(shape) if columns.pixels else shape,
        dtype=first.dtype,
        divisor=255 if columns.encoded else 0,
        labels=np.concatenate(labels),
        blocks=blocks,
        names=names,
        found=found,
    )


def refuse_other_pixels(train: Table, test: Table, wanted: Wanted, of_test: Wanted) -> None:
    """Refuse a test table with a column a pixel, by name, if these are others than in training or in another order."""
    known, found = _columns(train, wanted), _columns(test, of_test)
    if known.pixels and found.pixels and train.headed and test.headed and known.images != found.images:
        pairs = zip_longest(found.images, known.images, fillvalue="nothing")
        one, other = next(pair for pair in pairs if len({*pair}) > 1)
        raise UserError(
            f"{test.path}: its columns of pixels are not those of {train.path}: {one!r} stands where that has "
            f"{other!r}; expected the same names in the same order"
        )


def _names_of_classes(tables: Sequence[Table], label: str | None) -> tuple[str, ...]:
    """Return the names that all tables have for the numbers of the classes; none: there are none. Raises UserError."""
    if label is None:
        return ()
    first, *others = tables
    names = class_names(first.schema, label)
    for table in others:
        if (found := class_names(table.schema, label)) != names:
            raise UserError(
                f"{table.path}: the numbers in {label!r} stand for {', '.join(some_of(found)) or 'no names'}, those of "
                f"{first.path} for {', '.join(some_of(names)) or 'none'}; expected the same names in the same order"
            )
    return names


def _columns(table: Table, wanted: Wanted) -> Columns:
    names = table.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{table.path}: the column {twice!r} is there twice; expected names that differ")
    types = dict(zip(names, table.schema.types, strict=True))
    label = None if wanted.label is None else _label(table, wanted.label)
    candidates = [name for name, kind in types.items() if name != label and holds_images(kind)]
    if wanted.image and wanted.image not in candidates:
        raise UserError(
            f"{table.path}: training.data.image_column is {wanted.image!r}, but that column is "
            f"{types.get(wanted.image, 'absent')}; expected a struct with bytes, encoded pictures, or lists of "
            f"numbers; {nearest(wanted.image, candidates or types)}"
        )
    if not wanted.image and len(candidates) > 1:
        raise UserError(
            f"{table.path}: training.data.image_column has to name the column of images; there are: "
            f"{', '.join(candidates)}"
        )
    if not wanted.image and not candidates:
        return _pixels(table, types, label)
    image = wanted.image or candidates[0]
    kind = types[image]
    leaf = f"{image}.bytes" if table.nested and pa.types.is_struct(kind) else image
    return Columns(label, (image,), (leaf,), kind)


def _label(table: Table, asked: str) -> str:
    """Return the name of the column of labels."""
    names = table.schema.names
    if asked in names:
        return asked
    if asked == DEFAULT_LABEL:
        if not table.headed:
            return str(names[0])
        others = [name for name in names if name.strip().lower() in (DEFAULT_LABEL, *_OTHER_LABELS)]
        if len(others) == 1:
            return str(others[0])
    some = some_of(names)  # of many: an image in columns has one for each pixel
    # No user has written the default, so that nothing is misspelt.
    there = f"there are: {', '.join(some)}" if asked == DEFAULT_LABEL else nearest(asked, some)
    raise UserError(f"{table.path}: training.data.label_column is {asked!r}, but there is no such column; {there}")


def _pixels(table: Table, types: dict[str, pa.DataType], label: str | None) -> Columns:
    """Return all columns but the label's, each of one pixel."""
    pixels = [name for name in types if name != label and not (table.headed and _ROW_NUMBERS.fullmatch(name))]
    text = [name for name in pixels if not is_number(types[name])]
    if text or not pixels:
        some = ", ".join(f"{name!r} ({types[name]})" for name in text[:5]) + ", ..." * (len(text) > 5)
        beside = "" if label is None else f" beside the label {label!r}"
        raise UserError(
            f"{table.path}: there is no column of images, and{beside} not only "
            f"columns of numbers: {some or 'none'}; leave out what is not a pixel, or name the column of the labels in "
            "training.data.label_column"
        )
    kind = pa.float64() if any(pa.types.is_floating(types[name]) for name in pixels) else types[pixels[0]]
    return Columns(label, tuple(pixels), tuple(pixels), kind)


def _square(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a square of that many pixels, where there is one."""
    side = math.isqrt(shape[0])
    return (side, side) if side > 1 and side * side == shape[0] else shape


def _spelled(columns: Columns) -> str:
    if len(columns.images) == 1:
        return f"the column {columns.images[0]!r} ({columns.kind})"
    return f"the {len(columns.images)} columns {columns.images[0]!r} to {columns.images[-1]!r} ({columns.kind})"


def _blocks(
    table: Table, columns: Columns, decode: Callable[..., NDArray[np.uint8]], rows: int
) -> Iterator[NDArray[Any]]:
    """Yield the arrays (at most `rows`, *shape) in the dtype of the file, in its order, each of images of one shape."""
    if columns.pixels:
        row = 0
        for batch in table.read(columns.read, rows):
            for name in columns.images:
                values.refuse_null(batch.column(name), table.path, name, row)
            yield np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in columns.images], axis=1)
            row += len(batch)
        return
    for row, column in values.read(table, columns.images[0], columns.read, rows):
        if columns.encoded:
            decoded = []
            for number, each in enumerate(column, row):
                with refusing(f"{table.path}: the image at row {number} cannot be decoded", ValueError):
                    decoded.append(decode(each.as_buffer()))
            # One of another size comes in a block of its own, so that the row of it can be named.
            yield from (np.stack(list(alike)) for _, alike in groupby(decoded, key=np.shape))
        else:
            yield from values.numbers(column, table.path, columns.images[0], row)

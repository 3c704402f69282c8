"""Parquet files of labelled images, as Hugging Face lays them out: encoded pictures or lists of numbers.

It reads the columns that it needs, a few rows at a time, from one file or several with the same columns. It must
not know how a set is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffpipe.data import images, source
from ffpipe.data.source import BLOCK_BYTES, Contents, Part
from ffpipe.system.errors import UserError, nearest, reason
from ffpipe.system.files import expanded

# A row group may hold gigabytes, so rows are asked for some at a time: as many as fit BLOCK_BYTES when decoded, judged
# by the first, and never more than these, should the first be small by chance.
_MOST_ROWS = 512
_LABEL_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 20  # of each column


@dataclass(frozen=True)
class Columns:
    """image: name of the column of images, and what of it is read; encoded: as PNG or JPEG bytes. label: its name."""

    image: str
    read: str
    encoded: bool
    type: pa.DataType
    label: str


def part(paths: Sequence[Path], image_column: str, label_column: str, field: str) -> Part:
    """The part in these files, in this order. image_column: empty for the only one that holds images."""
    identity = tuple(source.file_identity(path, field) for path in paths)
    files = [expanded(path) for path in paths]
    return Part(
        "parquet",
        ("parquet", identity, image_column, label_column),
        lambda: contents(files, image_column, label_column),
    )


def contents(paths: Sequence[Path], image_column: str, label_column: str) -> Contents:
    """Read the schemas, the labels and the first image. Raises UserError: unreadable, no such column, not images."""
    columns = _columns(paths[0], image_column, label_column)
    for path in paths[1:]:
        if (other := _columns(path, image_column, label_column)) != columns:
            raise UserError(
                f"{path}: its images are in the column {other.image!r} ({other.type}), but those of {paths[0]} in "
                f"{columns.image!r} ({columns.type}); expected the same"
            )
    labels = np.concatenate([piece for path in paths for piece in _labels(path, columns.label)])
    first = next((block for path in paths for block in _images(path, columns, rows=1)), None)
    if first is None:
        raise UserError(f"{paths[0]}: there are no examples")
    shape = source.check_shape(first.shape[1:], f"{paths[0]}: column {columns.image!r}")
    dtype, divisor = source.stored_as(first.dtype)
    rows = min(_MOST_ROWS, max(1, BLOCK_BYTES // first.nbytes))
    return Contents(
        where=", ".join(map(str, paths)),
        shape=shape,
        dtype=dtype,
        divisor=divisor,
        labels=labels,
        blocks=lambda: _blocks(paths, columns, shape, rows),
    )


def _columns(path: Path, image_column: str, label_column: str) -> Columns:
    with _opened(path) as file:
        types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    if label_column not in types:
        raise UserError(
            f"{path}: training.data.label_column is {label_column!r}, but there is no such column; "
            f"{nearest(label_column, types)}"
        )
    candidates = [name for name, kind in types.items() if name != label_column and _holds_images(kind)]
    if not image_column and len(candidates) != 1:
        raise UserError(
            f"{path}: training.data.image_column has to name the column of images; "
            + (f"there are: {', '.join(candidates)}" if candidates else f"none of {', '.join(types)} can hold any")
        )
    image = image_column or candidates[0]
    if image not in candidates:
        raise UserError(
            f"{path}: training.data.image_column is {image!r}, but that column is {types.get(image, 'absent')}; "
            "expected a struct with bytes, encoded pictures, or lists of numbers; "
            + nearest(image, candidates or types)
        )
    kind = types[image]
    return Columns(
        image=image,
        read=f"{image}.bytes" if pa.types.is_struct(kind) else image,
        encoded=not _is_list(kind),
        type=kind,
        label=label_column,
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind) or (_is_list(kind) and _is_number(kind.value_type))


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _labels(path: Path, column: str) -> Iterator[NDArray[np.int64]]:
    row = 0
    yield np.empty(0, np.int64)
    for values in _read(path, column, column, _LABEL_ROWS):
        if not pa.types.is_integer(values.type):
            raise UserError(f"{path}: the label column {column!r} is {values.type}; expected integers")
        _refuse_null(values, path, column, row)
        yield source.integer_labels(values.to_numpy(zero_copy_only=False), f"{path}: column {column!r}")
        row += len(values)


def _blocks(paths: Sequence[Path], columns: Columns, shape: tuple[int, ...], rows: int) -> Iterator[NDArray[Any]]:
    """Arrays (n, features), all images of one shape."""
    for path in paths:
        row = 0
        for block in _images(path, columns, rows):
            if block.shape[1:] != shape:
                raise UserError(
                    f"{path}: the image at row {row} has shape {block.shape[1:]}, but the first of all has {shape}"
                )
            row += len(block)
            yield source.cast(block.reshape(len(block), -1))


def _images(path: Path, columns: Columns, rows: int) -> Iterator[NDArray[Any]]:
    """Arrays (at most `rows`, *shape) in the dtype of the file, in its order, each of images of one shape."""
    row = 0
    for values in _read(path, columns.image, columns.read, rows):
        if pa.types.is_struct(values.type):
            values = values.flatten()[values.type.get_field_index("bytes")]
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        _refuse_null(values, path, columns.image, row)
        yield from _decoded(values, path, row) if columns.encoded else _listed(values, path, columns.image, row)
        row += len(values)


def _decoded(values: pa.Array, path: Path, start: int) -> Iterator[NDArray[np.uint8]]:
    pictures = []
    for row, value in enumerate(values, start):
        try:
            pictures.append(images.decode(value.as_buffer()))
        except ValueError as error:
            raise UserError(f"{path}: the image at row {row} cannot be decoded: {error}") from None
    for _, alike in groupby(pictures, key=np.shape):
        yield np.stack(list(alike))


def _listed(values: pa.Array, path: Path, column: str, start: int) -> Iterator[NDArray[Any]]:
    lengths = np.asarray(pc.list_value_length(values))
    width = int(lengths[0])
    alike = int((lengths != width).argmax()) or len(values)
    numbers = values[:alike].flatten()
    if numbers.null_count:
        row = int(np.asarray(numbers.is_null()).argmax()) // width
        raise UserError(f"{path}: the list at row {start + row} of {column!r} holds a null; expected numbers")
    yield numbers.to_numpy(zero_copy_only=False).reshape(alike, width)
    if alike < len(values):
        yield from _listed(values[alike:], path, column, start + alike)


def _refuse_null(values: pa.Array, path: Path, column: str, start: int) -> None:
    if values.null_count:
        row = start + int(np.asarray(values.is_null()).argmax())
        raise UserError(f"{path}: the column {column!r} is null at row {row}; expected a value in every row")


def _read(path: Path, column: str, leaf: str, rows: int) -> Iterator[pa.Array]:
    """The values of one column, or of what `leaf` names below it, at most `rows` at a time and never none."""
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=[leaf], use_threads=False):
            if len(batch):
                yield batch.column(column)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file; failures to read it within the block become UserErrors."""
    try:
        # By default whole row groups are read ahead.
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            yield file
    # ArrowException has kinds that are none of Python's; the rest is what damaged metadata make of lookups.
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None

"""Values of one column of a table, some at a time: numbers of any depth, and labels.

It must not know which columns there are, nor the format of a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ffpipe.data.tables import Table, is_number, is_numbers, is_text
from ffpipe.system.errors import UserError

_LABEL_ROWS = 1 << 16
# Bytes of the name of a class, as of a folder. NumPy gives every label the room of the longest one.
_LONGEST_NAME = 255


def labels(table: Table, column: str) -> Iterator[NDArray[Any]]:
    """Yield the labels (n,), or one-hot rows (n, classes), as the file has them. Raises UserError for others."""
    for row, values in read(table, column, [column], _LABEL_ROWS):
        if is_numbers(values.type):
            yield from numbers(values, table.path, column, row)
        elif is_number(values.type):
            yield values.to_numpy(zero_copy_only=False)
        elif is_text(values.type):
            lengths = np.asarray(pc.binary_length(values.cast(pa.large_string())))
            if len(long := np.flatnonzero(lengths > _LONGEST_NAME)):
                raise UserError(
                    f"{table.path}: the label in {column!r} at row {row + long[0]} has {lengths[long[0]]:,} bytes; "
                    f"expected a number, or the name of a class of at most {_LONGEST_NAME}"
                )
            yield np.array(values.to_pylist())
        else:
            raise UserError(
                f"{table.path}: the label column {column!r} is {values.type}; expected numbers, names or one-hot rows"
            )


def read(table: Table, column: str, read: Sequence[str], rows: int) -> Iterator[tuple[int, pa.Array]]:
    """Yield the values of a column some at a time, none of them null, with the row of the first. read: the column, or
    the leaf of it that is wanted."""
    row = 0
    for batch in table.read(read, rows):
        values = batch.column(column)
        # As `datasets` has pictures. Flattened, for a null row has null bytes then; `field` would not see it.
        if pa.types.is_struct(values.type):
            values = values.flatten()[values.type.get_field_index("bytes")]
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        refuse_null(values, table.path, column, row)
        yield row, values
        row += len(values)


def numbers(values: pa.Array, path: Path, column: str, start: int) -> Iterator[NDArray[Any]]:
    """Yield the arrays (n, *shape) of lists of numbers, each of rows of one shape."""
    shape: list[int] = []
    inner = values
    while not is_number(inner.type):
        inner = inner.storage if isinstance(inner, pa.ExtensionArray) else inner
        lengths = np.asarray(pc.list_value_length(inner))
        length = int(lengths[0]) if len(lengths) else 0
        if (lengths != length).any():
            # Row by row, so that the one of another shape is named. One whose own lists differ has no shape.
            if len(values) == 1:
                raise UserError(f"{path}: the lists at row {start} of {column!r} differ in length within the row")
            for row in range(len(values)):
                yield from numbers(values[row : row + 1], path, column, start + row)
            return
        shape.append(length)
        # Unlike `values`, it keeps to the slice that this is.
        inner = inner.flatten()
        if inner.null_count:
            row = int(np.asarray(inner.is_null()).argmax()) // max(1, math.prod(shape))
            raise UserError(f"{path}: the list at row {start + row} of {column!r} holds a null; expected numbers")
    axes = list[int]()
    if isinstance(values.type, pa.FixedShapeTensorType):
        shape, axes = list(values.type.shape), values.type.permutation or []
        # Arrow's definition and what pyarrow writes are the inverse of each other.
        if any(axes[axis] != at for at, axis in enumerate(axes)):
            raise UserError(
                f"{path}: the tensors in {column!r} have the permutation {axes}, which programs read in two ways; "
                "expected tensors in row-major order"
            )
    found = inner.to_numpy(zero_copy_only=False).reshape(len(values), *shape)
    yield found.transpose(0, *(1 + axis for axis in axes)) if axes else found


def refuse_null(values: pa.Array, path: Path, column: str, start: int) -> None:
    """Refuse a column without a value in some row. start: the number of the first row. Raises UserError."""
    if values.null_count:
        row = start + int(np.asarray(values.is_null()).argmax())
        raise UserError(f"{path}: the column {column!r} is null at row {row}; expected a value in every row")

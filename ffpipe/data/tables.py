"""Files of rows and columns, read a few rows at a time: Parquet, Arrow (files, streams, Feather) and CSV.

This module must not know which column is what.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from ffpipe.data.gzipped import opened
from ffpipe.data.labels import writable
from ffpipe.system.errors import UserError, reason, refusing

_BUFFER_BYTES = 1 << 20  # of each column of a Parquet file
_CSV_BLOCK = 8 << 20  # into which a line has to fit
_SNIFFED = 1 << 20
_DELIMITERS = ",;\t|"
# `str.splitlines` takes more for ends of lines, which may stand within a name.
_LINE_ENDS = re.compile(r"\r\n|\n|\r")
_ARROW = b"ARROW1"


@dataclass(frozen=True)
class Table:
    """One file.

    names: of its columns, as they are in the file. read: yields the named columns (or leaves of Parquet columns, as
    image.bytes) in batches of at most so many rows, and no empty ones; raises UserError where the file is damaged.
    headed: whether the columns have names of their own.
    """

    path: Path
    schema: pa.Schema
    read: Callable[[Sequence[str], int], Iterator[pa.RecordBatch]]
    nested: bool = False
    headed: bool = True


def parquet(path: Path) -> Table:
    """Open a Parquet file. Raises UserError."""

    @contextmanager
    def file() -> Iterator[pq.ParquetFile]:
        # By default whole row groups are read ahead.
        with _reading(path), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as whole:
            yield whole

    def read(columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        with file() as source:
            for batch in source.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
                if len(batch):
                    yield batch

    with file() as source:
        return Table(path, _legible(source.schema_arrow), read, nested=True)


def arrow(path: Path) -> Table:
    """Open an Arrow file or stream, as `datasets` saves them, or a Feather file. Raises UserError."""

    @contextmanager
    def batches() -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with _reading(path), pa.memory_map(str(path)) as source:
            if source.read(len(_ARROW)) == _ARROW:
                whole = pa.ipc.open_file(source)
                yield whole.schema, (whole.get_batch(index) for index in range(whole.num_record_batches))
            else:
                source.seek(0)
                stream = pa.ipc.open_stream(source)
                yield stream.schema, iter(stream)

    def read(columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        with batches() as (_, found):
            for batch in found:
                batch.validate(full=True)  # offsets may lead anywhere
                chosen = batch.select(list(columns))
                yield from (chosen.slice(first, rows) for first in range(0, len(chosen), rows))

    with batches() as (schema, _):
        return Table(path, _legible(schema), read)


def comma_separated(path: Path) -> Table:
    """Open a CSV file in UTF-8, gzipped or not, with or without a line of names; the delimiter is found. Raises
    UserError.

    A column whose values are not numbers is text.
    """
    # Some programs begin a file with a mark (utf-8-sig), which would become part of the first name.
    with _reading(path), opened(path) as stream:
        sniffed = stream.read(_SNIFFED)
        if sniffed.count(b"\n") < 2:  # names and a line of numbers
            sniffed += stream.read(_CSV_BLOCK - _SNIFFED)
    start = sniffed.decode("utf-8-sig", "replace")  # its last character may be cut
    if not start.strip():
        raise UserError(f"{path}: it is empty; expected lines of numbers with a label")
    first, *lines = _LINE_ENDS.split(start)
    if not first.strip():
        raise UserError(f"{path}: its first line is empty; expected names of columns, or numbers with a label")
    delimiter = max(_DELIMITERS, key=first.count)
    with _reading(path):
        # The last of the lines may be cut.
        cells, *rows = csv.reader([first, *(lines[:-1] or lines)], delimiter=delimiter)
    headed = _are_names(cells, rows)
    names = [name.strip() for name in cells] if headed else [str(index) for index in range(len(cells))]
    kinds = _kinds(rows if headed else [cells, *rows], len(names))

    def read(columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        with _reading(path), opened(path) as stream, _converting():
            reader = pyarrow.csv.open_csv(
                stream,
                pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=_CSV_BLOCK, column_names=names, skip_rows=int(headed)
                ),
                pyarrow.csv.ParseOptions(delimiter=delimiter),
                pyarrow.csv.ConvertOptions(
                    include_columns=list(columns),
                    # Otherwise pyarrow goes by the first block, and fails where a later one has other numbers.
                    column_types=dict(zip(names, kinds, strict=True)),
                    # As a word an empty cell would be refused later, without the name of its column.
                    strings_can_be_null=True,
                    null_values=[""],  # a class may be called NA
                ),
            )
            for batch in reader:
                yield from (batch.slice(first, rows) for first in range(0, len(batch), rows))

    schema = pa.schema(list(zip(names, kinds, strict=True)))
    return Table(path, schema, read, headed=headed)


def _reading(path: Path) -> AbstractContextManager[None]:
    # ArrowException has kinds that are none of Python's; the rest is what damaged metadata make of lookups.
    damage = (pa.ArrowException, csv.Error, OSError, ValueError, TypeError, LookupError, MemoryError, OverflowError)
    return refusing(f"{path}: cannot be read", damage)


@contextmanager
def _converting() -> Iterator[None]:
    """Say what to do about a word far below numbers. Raises ValueError."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if "conversion error" not in str(error):
            raise
        hint = "the lines above have numbers there; one with a word among the first ones makes all of them words"
        raise ValueError(f"{reason(error)}; {hint}") from None


# The readers of tables, by source.
TABLES: dict[str, Callable[[Path], Table]] = {"parquet": parquet, "arrow": arrow, "csv": comma_separated}


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the names of the classes of a column, where `datasets` has left them in the schema; else none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(writable(str(name)) for name in names) if isinstance(names, list) else ()


def holds_images(kind: pa.DataType) -> bool:
    """Return whether values can be images: encoded ones, by themselves or in a struct, or lists of numbers."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind) or is_numbers(kind)


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_numbers(kind: pa.DataType) -> bool:
    """Return whether values are lists of numbers, of lists of them, or tensors."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_numbers(kind.storage_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (is_number(kind.value_type) or is_numbers(kind.value_type)))


def is_number(kind: pa.DataType) -> bool:
    """Return whether values are numbers, or bools, which count as such."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether values are words."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _legible(schema: pa.Schema) -> pa.Schema:
    """Return the schema. Raises ValueError where a name in it is not UTF-8, which pyarrow finds when it is read."""
    left = list(schema)
    while left:
        field = left.pop()
        _ = field.name
        left += [field.type.field(index) for index in range(field.type.num_fields)]
    return schema


def _are_names(cells: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the cells of the first line are names of columns. rows: below them."""
    words = [at for at, cell in enumerate(cells) if not _spells_number(cell)]
    if not words:  # 0, 1, 2, ... are the names that pandas gives to columns without any
        return len(cells) > 2 and [*cells] == [*map(str, range(len(cells)))]
    if len(words) > 1:
        return True
    # Numbers beside a word are an image and the name of its class, or names of columns beside that of the labels.
    word, labels = cells[words[0]], [cell for row in rows for cell in row[words[0] : words[0] + 1] if cell]
    if word.strip() and word in labels:
        return False
    if labels and all(map(_spells_number, labels)):
        return True
    # The only one of its class: names that are numbers are usually in their order.
    return all(a < b for a, b in pairwise(float(cell) for at, cell in enumerate(cells) if at != words[0]))


def _kinds(rows: Sequence[Sequence[str]], columns: int) -> list[pa.DataType]:
    """Return the types of the columns by the first rows: numbers, or text."""
    # A cell without a value is a null of either type, which whoever reads the column says.
    numbers = [all(_spells_number(cell) for row in rows for cell in row[at : at + 1] if cell) for at in range(columns)]
    return [pa.float64() if each else pa.string() for each in numbers]


def _spells_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

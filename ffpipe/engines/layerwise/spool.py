"""Streams on disk between two stages: memory-mapped Arrow IPC, read in the order in which they were written.

One file holds what one stage hands to a later one during a chapter, a record batch for each array, and one more at
its end that says which array is of which message:

    rows of 0, labels of 0, rows of 1, labels of 1, contents

Every checksum has the place of its array in it, so that nothing is trained on wrong bytes, nor without some of them.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64

from ffpipe.engines.layerwise.spoolfiles import Files, New
from ffpipe.pipeline.packet import Array, Arrays
from ffpipe.system.errors import StageLost

SCHEMA = pa.schema(
    [("message", pa.int64()), ("name", pa.string()), ("kind", pa.string()), ("dtype", pa.string()),
     ("shape", pa.list_(pa.int64())), ("checksum", pa.uint64()), ("data", pa.large_binary())]
)  # fmt: skip


# The last array of a file: for each of those before it, the message that it is of.
CONTENTS, OF_NONE = "contents", -1
# Whatever reading bytes that nobody has written so ends in.
DAMAGED = (OSError, pa.ArrowException, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


class SpoolWriter:
    """Writes one file.

    compression: None, "lz4" or "zstd", none of which loses anything. files: where its file comes from.
    """

    def __init__(self, path: Path, compression: str | None, files: Files | None = None) -> None:
        self._file = (files or New()).take(path)
        options = pa.ipc.IpcWriteOptions(compression=compression)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), SCHEMA, options=options)
        self._messages: list[int] = []

    def write(self, message: int, arrays: Arrays) -> None:
        """Messages in rising order. Raises OSError where there is no room."""
        for name, array in arrays.items():
            self._write(message, name, array.dtype, np.ascontiguousarray(array.data))

    def _write(self, message: int, name: str, kind: str, array: NDArray[Any]) -> None:
        """kind: the dtype that the array stands for, which NumPy may not know."""
        dtype, shape = array.dtype.str, list(array.shape)
        checksum = _checksum(len(self._messages), message, name, kind, dtype, shape, array)
        self._messages.append(message)
        offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
        data = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])
        columns = [[message], [name], [kind], [dtype], [shape], [checksum]]
        known = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=False)]
        self._writer.write_batch(pa.record_batch([*known, data], schema=SCHEMA))

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *error: object) -> None:
        """Raises OSError where there is no room for the end."""
        with self._file:
            self._write(OF_NONE, CONTENTS, "int64", np.array(self._messages, dtype=np.int64))
            self._writer.close()
            self._file.truncate()


class SpoolReader:
    """Reads one file, message by message; arrays that are not compressed are read in place.

    files: where the file goes when it has been read; None: it is deleted.
    """

    def __init__(self, path: Path, files: Files | None = None) -> None:
        """Raises StageLost where the file is absent, cut, or none."""
        self.path = path
        self._files = files or New()
        with contextlib.ExitStack() as opened:
            try:
                self._file = opened.enter_context(path.open("rb"))
                self._state = _state(self._file)
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                buffer = pa.py_buffer(self._map)
                self._address = buffer.address
                self._reader = pa.ipc.open_file(pa.BufferReader(buffer))
            except DAMAGED as error:
                raise StageLost(f"spool file {path} cannot be read: {_line(error)}") from None
            self._messages = self._contents()
            self._next = 0
            opened.pop_all()

    def read(self, message: int) -> Arrays:
        """The arrays of a message by name; none where nothing was written of it.

        Messages are asked for in rising order, each when those before are done with: their pages are given back.
        Raises StageLost where the bytes are not those that were written.
        """
        found: Arrays = {}
        while self._next < len(self._messages) and self._messages[self._next] == message:
            name, array = self._verified(self._next, message)
            if not found:
                self._give_back(array.data)
            found[name] = array
            self._next += 1
        return found

    def check(self) -> None:
        """Raises StageLost where the file is not as it was opened, and what was read of it may have changed since.

        A page beyond the end of a file that was cut kills whoever touches it, so this comes first.
        """
        try:
            state = _state(self._file)
        except OSError as error:
            raise StageLost(f"spool file {self.path} cannot be read: {_line(error)}") from None
        if state != self._state:
            raise StageLost(f"spool file {self.path} was altered while it was read")

    def _give_back(self, array: NDArray[Any]) -> None:
        """The pages before those of this array, which have been read."""
        behind = (array.ctypes.data - self._address) // mmap.PAGESIZE * mmap.PAGESIZE
        if 0 < behind < len(self._map):  # what was compressed does not lie in the file
            self._map.madvise(mmap.MADV_DONTNEED, 0, behind)

    def _contents(self) -> list[int]:
        """The message of each array. As the last one has its number in its checksum, none before it can be absent."""
        _, array = self._verified(self._reader.num_record_batches - 1, OF_NONE)
        messages: list[int] = array.data.tolist()
        return messages

    def _verified(self, number: int, message: int) -> tuple[str, Array]:
        """Name and array of a record batch, which is to be of this message."""
        self.check()
        try:
            batch = self._reader.get_batch(number)
            batch.validate(full=True)
            *columns, data = batch.columns  # by position: names may be altered as all else
            name, kind, dtype, shape, checksum = (column[0].as_py() for column in columns[1:])
            # The buffer itself: what a scalar or a list of one gives is a copy.
            array = np.frombuffer(data.buffers()[2], np.dtype(dtype), math.prod(shape)).reshape(shape)
            found = _checksum(number, message, name, kind, dtype, shape, array)
        except DAMAGED as error:
            raise StageLost(f"spool file {self.path} was altered: {_line(error)}") from None
        if found != checksum:
            which = "its list of arrays" if message == OF_NONE else f"message {message}"
            raise StageLost(f"spool file {self.path} was altered: the checksum of {which} differs")
        return name, Array(kind, array)

    def __enter__(self) -> SpoolReader:
        return self

    def __exit__(self, *error: object) -> None:
        """What has been read is needed no more. The map goes with the last array that lies in it."""
        self._file.close()
        self._files.put(self.path)


def _checksum(
    number: int, message: int, name: str, kind: str, dtype: str, shape: list[int], array: NDArray[Any]
) -> int:
    """Of the array that is the `number`th of its file. XXH3, at memory's speed: it finds damage, not a forger."""
    found = xxh3_64(f"{number} {message} {name} {kind} {dtype} {shape}".encode())
    found.update(array.reshape(-1).view(np.uint8).data)
    return found.intdigest()


def _state(file: IO[bytes]) -> tuple[int, int]:
    """What changes when somebody cuts a file or writes to it."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Messages between two stages on disk: memory-mapped Arrow IPC, read in the order in which they were written.

The bytes of each array are a record batch of their own; which array they are stays in this process, with one checksum
a message. A file is written over by the next chapter: new pages cost a file system several times what its own do.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64

from ffpipe.pipeline.packet import Array, Arrays
from ffpipe.system.errors import StageLost, reason

# Offsets of 64 bits: an array may have 2 GiB and more.
SCHEMA = pa.schema([("data", pa.large_binary())])
# Whatever reading a damaged file ends in.
DAMAGED = (OSError, pa.ArrowException, ValueError, TypeError, LookupError)


class _Written(NamedTuple):
    """A message in the file. first: its first record batch. arrays: name, torch's and NumPy's dtype, and shape of each
    array."""

    first: int
    arrays: list[tuple[str, str, np.dtype[Any], tuple[int, ...]]]
    checksum: int


class Spool:
    """The packets that one stage hands to a later one during a chapter: written by the one, then read by the other.
    compression: None, "lz4" or "zstd", none of which loses anything."""

    def __init__(self, path: Path, compression: str | None = None) -> None:
        self.path = path
        self._options = pa.ipc.IpcWriteOptions(compression=compression)
        self._messages: dict[int, _Written] = {}
        self._batches = self._size = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Begin a chapter; inside, `write` may be called. Raises OSError where there is no room."""
        self._messages.clear()
        self._batches = 0
        # A file of pyarrow's own would begin by cutting what is there to nothing.
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            with pa.ipc.new_file(pa.PythonFile(file, "w"), SCHEMA, options=self._options) as self._writer:
                yield
            file.truncate()
            self._size = file.tell()

    def write(self, message: int, arrays: Arrays) -> None:
        """Write a message, which may have no arrays. Raises OSError where there is no room."""
        checksum, first, written = xxh3_64(), self._batches, []
        for name, (kind, given) in arrays.items():
            array = np.ascontiguousarray(given)
            checksum.update(array.reshape(-1).view(np.uint8).data)
            offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
            data = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])
            self._writer.write_batch(pa.record_batch([data], schema=SCHEMA))
            written.append((name, kind, array.dtype, array.shape))
        self._batches += len(written)
        self._messages[message] = _Written(first, written, checksum.intdigest())

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], Arrays]]:
        """Read the chapter again, a message by its number; one that is not compressed is read in place.

        Messages are asked for in rising order, each when those before are done with. Raises StageLost where the file is
        absent or its bytes are not those that were written.
        """
        try:
            with self.path.open("rb") as file:
                # Whoever touches a page beyond the end of a file that was cut is killed.
                if os.fstat(file.fileno()).st_size != self._size:
                    raise StageLost(f"spool file {self.path} was altered: it does not have its {self._size:,} bytes")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            batches = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
        except DAMAGED as error:
            raise StageLost(f"spool file {self.path} cannot be read: {reason(error)}") from None

        def read(message: int) -> Arrays:
            mapped.madvise(mmap.MADV_DONTNEED)  # pages of earlier messages are not to add up
            return self._read(batches, message)

        yield read

    def _read(self, batches: pa.RecordBatchFileReader, message: int) -> Arrays:
        written = self._messages.get(message)
        if written is None:
            return {}
        arrays, checksum = Arrays(), xxh3_64()
        try:
            for number, (name, kind, dtype, shape) in enumerate(written.arrays, written.first):
                # The buffer itself: what a scalar gives is a copy.
                data = np.frombuffer(batches.get_batch(number).column(0).buffers()[2], dtype, int(np.prod(shape)))
                checksum.update(data.view(np.uint8).data)
                arrays[name] = Array(kind, data.reshape(shape))
        except DAMAGED as error:
            raise StageLost(f"spool file {self.path} cannot be read: {reason(error)}") from None
        if checksum.intdigest() != written.checksum:
            raise StageLost(f"spool file {self.path} was altered: the checksum of message {message} differs")
        return arrays

"""Sums between replicas on one host: they lie in shared memory, and a datagram says to each other replica where.

    replica 0                              replica 1
    writes slot r % 2 ──datagram (round r, name, dtypes, shapes)──► reads there, adds up
                      (and the memory itself, when it is new)

Nobody needs to say that a slot has been read: who begins round r + 2 has had all others' sums of round r + 1, and these
began that after they had read round r. Neither memory nor sockets have a name in any folder, so that nothing is left of
a replica that was killed. Linux alone has both.
"""

from __future__ import annotations

import math
import mmap
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import numpy as np

from ffpipe.pipeline.packet import Array, Arrays
from ffpipe.system.memory import unmap

AVAILABLE = sys.platform == "linux"
# Arrays begin at multiples of so many bytes.
ALIGNED = 64
# The most bytes of a datagram: what arrays are called and how large they are.
LONGEST = 128 << 10
# Arrays whose pages are not left mapped, as of messages (engines/ray/actor.py).
LARGE = 1 << 20
CREDENTIALS, FILE = struct.Struct("3i"), struct.Struct("i")


class _Sums(msgspec.Struct):
    """The contents of a datagram. arrays: dtype by torch's name, dtype by NumPy's, shape, and where it begins."""

    number: int
    replica: int
    name: str
    arrays: list[tuple[str, str, tuple[int, ...], int]]


class SharedSums:
    """The sums that one replica of a stage sends to the others and gets of them.

    put: is given those of another, as `Reducer.put`, in a thread of its own.
    """

    def __init__(
        self, place: str, replica: int, others: Sequence[int], put: Callable[[int, int, str, Arrays], None]
    ) -> None:
        """place: of the stage; the same for all its replicas, and for none besides. others: their replicas."""
        self._place, self._replica, self._others, self._put = place, replica, others, put
        self._slots = (_Slot(), _Slot())
        self._mapped: dict[tuple[int, int], mmap.mmap] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self._address(replica))
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, number: int, name: str, sums: Arrays) -> None:
        """Send the sums of round `number` to all others."""
        slot = self._slots[number % 2]
        is_new, places = slot.write(sums)
        arrays = [
            (array.dtype, array.data.dtype.str, array.data.shape, at)
            for array, at in zip(sums.values(), places, strict=True)
        ]
        said = msgspec.msgpack.encode(_Sums(number, self._replica, name, arrays))
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, FILE.pack(slot.file))] if is_new else []
        for other in self._others:
            with suppress(ConnectionError):  # a lost replica is the driver's to notice
                self._socket.sendmsg([said], beside, 0, self._address(other))

    def close(self) -> None:
        """End the thread."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def _address(self, replica: int) -> str:
        return f"\0ffpipe-{self._place}-{replica}"

    def _receive(self) -> None:
        room = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(FILE.size)
        while True:
            said, beside, _, _ = self._socket.recvmsg(LONGEST, room)
            if not said:
                return  # closed
            told = {kind: data for _, kind, data in beside}
            file = FILE.unpack(told[socket.SCM_RIGHTS])[0] if socket.SCM_RIGHTS in told else -1
            # Another user of this host may know the place.
            _, user, _ = CREDENTIALS.unpack(told[socket.SCM_CREDENTIALS])
            if user == os.getuid():
                with suppress(msgspec.DecodeError):
                    self._take(msgspec.msgpack.decode(said, type=_Sums), file)
            if file >= 0:
                os.close(file)

    def _take(self, said: _Sums, file: int) -> None:
        """Hand on the sums of another replica. file: of new memory, or -1."""
        slot = said.replica, said.number % 2
        if file >= 0:
            self._mapped[slot] = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        memory = self._mapped[slot]
        arrays = {
            str(index): Array(dtype, np.ndarray(shape, kind, memory, at))
            for index, (dtype, kind, shape, at) in enumerate(said.arrays)
        }
        self._put(said.number, said.replica, said.name, arrays)


class _Slot:
    """Shared memory for the sums of every second round. file: its descriptor."""

    def __init__(self) -> None:
        self.file, self._memory = -1, np.empty(0, np.uint8)

    def write(self, sums: Arrays) -> tuple[bool, list[int]]:
        """Copy sums into it. Returns whether the memory is new, since there was too little, and where each begins."""
        places, end = [], 0
        for array in sums.values():
            places.append(end)
            end += math.ceil(array.data.nbytes / ALIGNED) * ALIGNED
        if is_new := end > len(self._memory) or self.file < 0:
            self._grow(max(end, mmap.PAGESIZE))
        for array, at in zip(sums.values(), places, strict=True):
            part = self._memory[at : at + array.data.nbytes]
            part.view(array.data.dtype).reshape(array.data.shape)[...] = array.data
            if part.nbytes >= LARGE:
                unmap(part)
        return is_new, places

    def _grow(self, size: int) -> None:
        if self.file >= 0:
            os.close(self.file)
        self.file = os.memfd_create("ffpipe-sums")
        os.ftruncate(self.file, size)
        self._memory = np.frombuffer(mmap.mmap(self.file, size), np.uint8)

"""Sums between replicas on one host: they lie in shared memory, and a datagram says to each other replica where.

    replica 0                              replica 1
    writes slot r % 2 ──datagram (round r, name, dtypes, shapes)──► reads there, adds up
                      (and the memory itself, when it is new)

A slot needs no answer: a replica begins round r + 2 only after all sums of round r + 1 have come, and these were sent
after round r had been read. Neither memory nor sockets have a name in any folder, so that nothing is left of a replica
that was killed. Linux alone has both.
"""

from __future__ import annotations

import math
import mmap
import os
import socket
import struct
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import numpy as np

from ffpipe.pipeline.packet import Array, Arrays
from ffpipe.system.errors import RunFailed
from ffpipe.system.memory import unmap_large

AVAILABLE = sys.platform == "linux"
# Arrays begin at multiples of so many bytes.
ALIGNED = 64
# The most bytes of a datagram, which are those of some 4,000 arrays: what they are called and how large they are.
LONGEST = 128 << 10
# Process, user and group of a sender, as Linux gives them.
CREDENTIALS = struct.Struct("3i")
DESCRIPTOR_BYTES = 4


class _Sums(msgspec.Struct):
    """The contents of a datagram. arrays: dtype by torch's name, dtype by NumPy's, shape, and where it begins."""

    number: int
    replica: int
    name: str
    arrays: list[tuple[str, str, tuple[int, ...], int]]


class SharedSums:
    """The sums that one replica of a stage sends to the others and gets of them.

    put: is given those of another, as `Reducer.put`, in a thread of its own. fail: is given what ends this thread, as
    `Reducer.fail`.
    """

    def __init__(
        self,
        channel: str,
        replica: int,
        others: Sequence[int],
        put: Callable[[int, int, str, Arrays], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """channel: a name that the replicas of this stage have, and nothing besides. others: their numbers."""
        self._channel, self._replica, self._others = channel, replica, others
        self._put, self._fail = put, fail
        self._slots = (_Slot(), _Slot())
        self._mapped: dict[tuple[int, int], mmap.mmap] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Before it has an address: a datagram that came without credentials would be taken for the end.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address(replica))
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def address(self, replica: int) -> str:
        """Return where a replica receives datagrams."""
        return f"\0ffpipe-{self._channel}-{replica}"

    def send(self, number: int, name: str, sums: Arrays) -> None:
        """Send the sums of round `number` to all others. Raises RunFailed for more arrays than a datagram names."""
        slot = self._slots[number % 2]
        is_new, offsets = slot.write(sums)
        arrays = [(a.dtype, a.data.dtype.str, a.data.shape, at) for a, at in zip(sums.values(), offsets, strict=True)]
        message = msgspec.msgpack.encode(_Sums(number, self._replica, name, arrays))
        # A longer one is cut off where it arrives, and nobody would hear of it.
        if len(message) > LONGEST:
            raise RunFailed(f"{name}: {len(sums)} arrays are too many for replicas to exchange at once")
        # With the first datagram alone: the receiver keeps the memory mapped.
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [slot.file]))] if is_new else []
        for other in self._others:
            with suppress(ConnectionError):  # the driver notices a lost replica
                self._socket.sendmsg([message], beside, 0, self.address(other))

    def close(self) -> None:
        """End the thread, and let go of the memory, where others can still read the last sums."""
        # It wakes the thread, which a close alone would leave in its call.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._mapped.clear()
        for slot in self._slots:
            slot.close()

    def _receive(self) -> None:
        try:
            self._receive_all()
        except BaseException as error:  # or all would wait for sums until the run has had enough of it
            self._fail(error)

    def _receive_all(self) -> None:
        room = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(DESCRIPTOR_BYTES)
        while True:
            message, beside, _, _ = self._socket.recvmsg(LONGEST, room, socket.MSG_CMSG_CLOEXEC)
            if not beside:  # closed: every datagram comes with credentials
                return
            control = {kind: data for _, kind, data in beside}
            files = array("i", control.get(socket.SCM_RIGHTS, b""))
            try:
                # Another user of this host may know the channel.
                if CREDENTIALS.unpack(control[socket.SCM_CREDENTIALS])[1] == os.getuid():
                    with suppress(msgspec.DecodeError):  # of another program of this user: the thread has to go on
                        self._take(msgspec.msgpack.decode(message, type=_Sums), files)
            finally:  # the memory stays mapped without it; a stranger's descriptors are not to add up
                for file in files:
                    os.close(file)

    def _take(self, sums: _Sums, files: Sequence[int]) -> None:
        """Hand on the sums of another replica. files: the new memory of its slot, if it is new."""
        slot = sums.replica, sums.number % 2
        if files:
            # The old one goes with the last array that lies in it.
            self._mapped[slot] = mmap.mmap(files[0], 0, access=mmap.ACCESS_READ)
        memory = self._mapped[slot]
        arrays = {
            str(index): Array(dtype, np.ndarray(shape, kind, memory, at))
            for index, (dtype, kind, shape, at) in enumerate(sums.arrays)
        }
        self._put(sums.number, sums.replica, sums.name, arrays)


class _Slot:
    """Shared memory for the sums of every second round. file: its descriptor; -1 where there is none."""

    def __init__(self) -> None:
        self.file, self._memory = -1, np.empty(0, np.uint8)

    def write(self, sums: Arrays) -> tuple[bool, list[int]]:
        """Copy sums into it. Returns whether the memory is new, since there was too little, and where each begins."""
        offsets, end = [], 0
        for each in sums.values():
            offsets.append(end)
            end += math.ceil(each.data.nbytes / ALIGNED) * ALIGNED
        if is_new := self.file < 0 or end > len(self._memory):
            self.close()
            size = max(end, mmap.PAGESIZE)  # nothing of no bytes can be mapped, and sums may have none
            self.file = os.memfd_create("ffpipe-sums")
            os.ftruncate(self.file, size)
            self._memory = np.frombuffer(mmap.mmap(self.file, size), np.uint8)
        for each, at in zip(sums.values(), offsets, strict=True):
            part = self._memory[at : at + each.data.nbytes]
            part.view(each.data.dtype).reshape(each.data.shape)[...] = each.data
            # Written pages would count as memory of this process; what is in them stays.
            unmap_large(part)
        return is_new, offsets

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file, self._memory = -1, np.empty(0, np.uint8)

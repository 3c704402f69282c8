"""Data for the first stage where a host of it is not the driver's: the same that the driver has, or none at all.

The host finds them by itself (its own copy, or a folder that both share), and what it found is held against what the
driver has; or the driver sends its canonical files to the host's cache. Ray is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffpipe.config.schema import Data
from ffpipe.data import cache
from ffpipe.data.splits import load_splits
from ffpipe.pipeline.job import Job
from ffpipe.system.errors import UserError

PIECE_BYTES = 32 << 20


class HostData:
    """The data of the host that this process is on."""

    def __init__(self) -> None:
        self._incoming: cache.Incoming | None = None

    def find(self, data: Data, data_dir: str) -> tuple[str, str]:
        """Look for the data of a config. Returns their fingerprint, or why there are none."""
        try:
            return load_splits(data, data_dir).fingerprint, ""
        except UserError as error:
            return "", str(error)

    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of a canonical file in the cache; empty where it is not there."""
        return cache.fingerprint(name)

    def take(self, name: str, piece: NDArray[np.uint8], last: bool) -> str:
        """Take the next piece of a canonical file. Returns what went wrong, in words."""
        try:
            self._incoming = self._incoming or cache.Incoming(name)
            self._incoming.write(piece)
            if last:
                self._incoming.close()
                self._incoming = None
        except UserError as error:
            return str(error)
        return ""


# Calls a method of the other host's data, by its name, and waits for the answer.
Ask = Callable[..., Any]


def supply(job: Job, ask: Ask, where: str, piece_bytes: int = PIECE_BYTES) -> tuple[str, ...]:
    """See to it that a host of the first stage has the data. Returns the names of the files that it was sent. where:
    what that host is called, for messages. Raises UserError where it has none, or others."""
    execution, splits = job.config.execution, job.splits
    if execution.data_from == "driver":
        for stored in splits.stored:
            if ask("fingerprint", stored.path.name) == stored.fingerprint:
                continue
            whole = np.memmap(stored.path, dtype=np.uint8, mode="r")
            for end in range(piece_bytes, len(whole) + piece_bytes, piece_bytes):
                # A copy: a piece that is mapped would be pickled with its bytes, and not go by the object store.
                piece = np.array(whole[end - piece_bytes : end])
                if problem := ask("take", stored.path.name, piece, end >= len(whole)):
                    raise UserError(f"data could not be sent to host {where}: {problem}")
        return tuple(stored.path.name for stored in splits.stored)
    fingerprint, problem = ask("find", job.config.training.data, execution.data_dir)
    instead = "give --execution.data-from driver, or put the same data there (--data-dir names the folder)"
    if problem:
        raise UserError(f"host {where} of the first stage does not have the data ({problem}): {instead}")
    if fingerprint != splits.fingerprint:
        raise UserError(f"host {where} of the first stage has other data than this host: {instead}")
    return ()

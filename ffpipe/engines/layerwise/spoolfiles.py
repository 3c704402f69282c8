"""The files of a spool before and after: where one that is to be written comes from, where one that was read goes.

New pages cost a file system several times what its own do, so that files are written over. Two that take turns have no
more room than what is read and what is written at a time:

    row 0        writes A, while B waits with the last row of the chapter before
    row 1        reads A, writes B
    row 2        reads B, writes A
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import IO, Protocol


class Files(Protocol):
    """Of one kind."""

    def take(self, path: Path) -> IO[bytes]:
        """A file of this name to write; what is in it may be written over and has to be cut off. Raises OSError."""

    def put(self, path: Path) -> None:
        """Nobody reads this file any more."""


class New:
    """Made anew, and deleted."""

    def take(self, path: Path) -> IO[bytes]:
        return path.open("wb")

    def put(self, path: Path) -> None:
        path.unlink(missing_ok=True)


class InPlace:
    """Each stays where it is until the next of its name is written over it: for those that all wait at once."""

    def take(self, path: Path) -> IO[bytes]:
        return path.open("r+b" if path.exists() else "wb")

    def put(self, path: Path) -> None:
        """It stays."""


class InTurn:
    """What was read first is written over first, under whatever name: for those of which two are in use at a time."""

    def __init__(self) -> None:
        self._paths: deque[Path] = deque()
        self._count = 0

    def take(self, path: Path) -> IO[bytes]:
        if not self._paths:
            return path.open("wb")
        os.replace(self._paths.popleft(), path)
        return path.open("r+b")

    def put(self, path: Path) -> None:
        """It gives up its name, which the next chapter uses again."""
        used = path.with_name(f"used-{self._count}")
        self._count += 1
        os.replace(path, used)
        self._paths.append(used)

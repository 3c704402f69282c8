"""A control group that holds a command's memory, page cache included, to a limit. Linux, either version, as root."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PATIENCE_SECONDS = 10.0


class MemoryGroup:
    """A group made on entry and removed on exit. Raises OSError where this user may not make one."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._first_version = (ROOT / "memory").is_dir()

    def __enter__(self) -> MemoryGroup:
        self.path = Path(tempfile.mkdtemp(prefix="ffpipe-", dir=ROOT / "memory" if self._first_version else ROOT))
        if self._first_version:
            (self.path / "memory.limit_in_bytes").write_text(str(self.limit))
        else:
            (self.path / "memory.max").write_text(str(self.limit))
            (self.path / "memory.swap.max").write_text("0")
        return self

    def __exit__(self, *error: object) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.path.rmdir()
                return
            except OSError:  # a process in it has not quite ended
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run the command in the group; return it with what it prints."""
        group = self.path / "cgroup.procs"
        return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: _enter(group))

    @property
    def most(self) -> int:
        """Bytes that the group had at once, page cache included."""
        name = "memory.max_usage_in_bytes" if self._first_version else "memory.peak"
        return int((self.path / name).read_text())


def _enter(group: Path) -> None:
    """Join the group between fork and exec: this process and what it starts belong to it from now on."""
    file = os.open(group, os.O_WRONLY)
    os.write(file, str(os.getpid()).encode())
    os.close(file)

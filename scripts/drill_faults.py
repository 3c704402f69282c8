"""The faults that are to happen to a run, as a folder that all processes of the drill share.

faults.json lists the faults. A fault that has happened leaves a file there, so that it happens once, however often
its place in the run is passed again. Further files say what must be known to do it: process ids, and which disk.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

# Signals to the driver, each at some place of a run: all ask it to save and end.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGXCPU", "SIGUSR1")
PLACES = ("start", "snapshot", "end")


@dataclass(frozen=True)
class Fault:
    """stage: by whom, modulo how many there are. step: after it. delay: seconds from there."""

    kind: str
    stage: int
    step: int = 0
    delay: float = 0.0

    @property
    def signal(self) -> str:
        """The signal that the driver gets; empty for other faults."""
        name = self.kind.split()[0]
        return name if name in SIGNALS else ""

    @property
    def place(self) -> str:
        """The place in the run: one of PLACES; empty where `step` says it."""
        last = self.kind.split()[-1]
        return last if last in PLACES else ""


@dataclass(frozen=True)
class Programme:
    """The faults of a run in their folder."""

    folder: Path

    def write(self, faults: list[Fault]) -> None:
        self.folder.mkdir()
        (self.folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults]))

    @property
    def faults(self) -> list[Fault]:
        return [Fault(**values) for values in json.loads((self.folder / "faults.json").read_text())]

    def claim(self, index: int, mark: str = "done") -> bool:
        """Claim fault `index`; return whether it was free."""
        try:
            (self.folder / f"{index}.{mark}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def happened(self) -> list[int]:
        """Return the indices of the faults that have happened, in the order in which they did."""
        return [int(path.stem) for path in sorted(self.folder.glob("*.done"), key=lambda path: path.stat().st_mtime_ns)]

    def tell(self, name: str, value: str | int) -> None:
        (self.folder / name).write_text(str(value))

    def told(self, name: str) -> str:
        return (self.folder / name).read_text()

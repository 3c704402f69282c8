"""The writer of a stage's part of each snapshot, in a thread of its own, so that training goes on meanwhile.

The state is copied when the marker passes; what is written is that of its step, whatever happens after.
One snapshot is written at a time: the next marker waits, which bounds the memory that copies take.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.telemetry.report import FailedFile, ReplicaFile, WrittenFile

State = dict[str, Tensor]


@dataclass(frozen=True)
class FileState:
    """The tensors of one file, and which of it are the weights that a run is judged by."""

    state: State
    weights: tuple[str, ...]


class Saver:
    """One stage's files of each snapshot in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: deque[WrittenFile | ReplicaFile] = deque()
        self._failures: deque[FailedFile] = deque()
        self._thread: threading.Thread | None = None

    def save(self, step: int, files: Mapping[str, FileState]) -> None:
        """Copy what is to be written, by file name, and begin; waits for the snapshot before."""
        self.wait()
        self.begin(step, {name: FileState(_copy(saved.state), saved.weights) for name, saved in files.items()})

    def begin(self, step: int, files: Mapping[str, FileState]) -> None:
        """Begin to write what is changed no more."""
        # A daemon: a process that is told to end does not wait for a store that never answers.
        self._thread = threading.Thread(target=self.write, args=(step, files), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()

    def drain(self) -> tuple[list[WrittenFile | ReplicaFile], list[FailedFile]]:
        """Return the files written, and what could not be written and why, since the last call."""
        # As many as there are now: the other thread may append meanwhile.
        files = [self._written.popleft() for _ in range(len(self._written))]
        return files, [self._failures.popleft() for _ in range(len(self._failures))]

    def write(self, step: int, files: Mapping[str, FileState]) -> None:
        """Write files, and note what became of each."""
        for name, saved in files.items():
            try:
                digest = checkpoint.weights_digest({key: saved.state[key] for key in saved.weights})
                write = partial(checkpoint.write_tensors, self._store, step, name, saved.state, digest)
                self._written.append(self._store.with_retries(write))
            except Exception as error:  # whatever it is, this thread has nobody else to tell
                place = self._store.place(f"{checkpoint.folder_of(step)}/{name}")
                # The words of the system alone, since the place is named beside them.
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self._failures.append(FailedFile(step, place, reason))


class Witness(Saver):
    """The saver's place in the other replicas of a stage: it notes the digest of what each file would hold, by
    which a snapshot is held to be right."""

    def __init__(self, store: Store, replica: str) -> None:
        super().__init__(store)
        self._replica = replica

    def save(self, step: int, files: Mapping[str, FileState]) -> None:
        for name, saved in files.items():
            # At once, which needs no copy: in a thread the weights would change under it.
            digest = checkpoint.weights_digest({key: saved.state[key] for key in saved.weights})
            self._written.append(ReplicaFile(step, name, digest, self._replica))


def _copy(state: State) -> State:
    # On a CPU, `to` without `copy` returns the very tensor, which the next step changes.
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

"""The engines whose stages are all in this process: nothing to place, nothing to take down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from ffpipe.config.schema import Execution
from ffpipe.pipeline.job import Engine, Job, Layout, Start
from ffpipe.pipeline.schedule import ItemStream
from ffpipe.storage.store import Store
from ffpipe.system.errors import RunFailed, UserError, reason


class InProcessEngine(Engine):
    """All of an engine but how it cuts a job and the order in which it works."""

    def __init__(self) -> None:
        self._stream: ItemStream | None = None
        self._interrupted = False

    def layout_again(self, job: Job, store: Store) -> Layout:
        return self.layout(job)

    def check_store(self, store: Store) -> None:
        """Accept any store: all is on this host."""

    def interrupt(self) -> None:
        self._interrupted = True
        if self._stream is not None:
            self._stream.interrupt()

    def close(self) -> None:
        """Do nothing, since nothing was started."""

    def begin(self, job: Job, layout: Layout, start: Start) -> ItemStream:
        """Start the item stream of the run, which ends when it is interrupted."""
        self._stream = ItemStream(layout.plan, start.step, job.config.execution.snapshot_seconds, time.monotonic)
        if self._interrupted:  # before there was an item stream to tell
            self._stream.interrupt()
        return self._stream


def refuse_without_gpu(execution: Execution) -> None:
    """Refuse to compute in this process on a GPU that is not here."""
    if execution.first_device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device is 'cuda', but torch finds no GPU here: give --device cpu")


@contextmanager
def as_stages() -> Iterator[None]:
    """Work that fails as it does where stages are actors: with RunFailed, where memory or numbers do not suffice or a
    snapshot cannot be read any more."""
    try:
        yield
    except UserError as error:
        raise RunFailed(f"a stage failed: {error}") from error
    except (MemoryError, ArithmeticError, RuntimeError) as error:
        raise RunFailed(f"a stage failed: {type(error).__name__}: {reason(error)}") from error


@contextmanager
def reported(report: Callable[[], None]) -> Iterator[None]:
    """Work whose last report comes whether it ends or fails: it makes snapshots whole that were written before."""
    try:
        yield
    except Exception:  # not for a second interrupt, which waits for nothing
        with suppress(Exception):  # which would hide what went wrong
            report()
        raise
    report()

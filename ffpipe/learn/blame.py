"""Errors of a user's block as one line: which block, when, and where in the user's code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.user_model import describe_error
from ffpipe.system.errors import RunFailed


@contextmanager
def blaming(network: Blueprint, index: int, *when: object) -> Iterator[None]:
    """Raise RunFailed for what a block raises, where the network is a user's. when: words, such as "at step", 3."""
    try:
        yield
    # No fault of the block: somebody asks it to end, memory is short, or the error has its line already.
    except (KeyboardInterrupt, GeneratorExit, MemoryError, RunFailed):
        raise
    except BaseException as error:  # a user's code has as many ways to fail as there are, sys.exit among them
        if network.code is None and network.function is None:
            raise
        why = describe_error(error, network.code)
        raise RunFailed(f"{network.outlines[index]} failed {' '.join(map(str, when))}: {why}") from error

"""Errors of a block as one line: which block, when, and where in the user's code; or that memory ran out in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.user_model import describe_error
from ffpipe.system.errors import RunFailed

LESS_MEMORY = "--memory-budget or a smaller training.batch_size may help"


@contextmanager
def blaming(network: Blueprint, index: int, *when: object, less_memory: str = LESS_MEMORY) -> Iterator[None]:
    """Raise RunFailed where memory runs out in a block, and for whatever else it raises where the network is a user's.

    when: words, such as "at step", 3. less_memory: a phrase that says what to do where memory runs out.
    """
    try:
        yield
    # No fault of the block: somebody asks it to end, or the error has its line already.
    except (KeyboardInterrupt, GeneratorExit, RunFailed):
        raise
    except BaseException as error:  # a user's code has as many ways to fail as there are, sys.exit among them
        block, then = network.outlines[index], " ".join(map(str, when))
        why = describe_error(error, network.code.module if network.code else "")
        # On the CPU torch says so by its text alone.
        on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
        if on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise RunFailed(f"{block} ran out of memory {then}: {less_memory} ({why})") from error
        if network.code is None and network.function is None:
            raise
        raise RunFailed(f"{block} failed {then}: {why}") from error

"""Stateless randomness: every random number is a function of (seed, purpose, index), never of what ran before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Make a counter-based generator for one purpose at one place.

    seed: the run's seed. purpose: what the numbers are for ("order", "negatives", "weights").
    index: where they are used (an epoch, a step, a layer). Equal arguments give equal streams on
    every host; different ones give independent streams (the key is a 128-bit hash).
    """
    text = "/".join([str(seed), purpose, *map(str, index)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype="<u8")  # "<": the same numbers on hosts of either byte order
    return np.random.Generator(np.random.Philox(key=key))


def process_state() -> tuple[Any, Any]:
    """Return the state of the generators of NumPy and of Python that a whole process shares."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002  # users' modules may draw from it


def set_process_state(state: tuple[Any, Any]) -> None:
    """Put them back."""
    np.random.set_state(state[0])  # noqa: NPY002
    random.setstate(state[1])


@contextmanager
def process_seeded(seed: int) -> Iterator[None]:
    """Set these generators for what is drawn inside, and put them back as they were."""
    before = process_state()
    # NumPy's old generator takes seeds of 32 bits alone.
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        set_process_state(before)

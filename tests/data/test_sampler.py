from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffpipe.data.sampler import Sampler
from ffpipe.system import rng
from ffpipe.system.errors import UserError

sizes = st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@settings(deadline=None)
@given(size=sizes, seed=st.integers(0, 9), epoch=st.integers(0, 5))
def test_an_epoch_is_a_shuffle_without_repeats(size: tuple[int, int], seed: int, epoch: int) -> None:
    examples, batch = size
    sampler = Sampler(examples, batch, seed)
    steps = sampler.steps_per_epoch
    assert steps == examples // batch
    rows = np.concatenate([sampler.rows(epoch * steps + step) for step in range(steps)])
    expected = rng.generator(seed, "order", epoch).permutation(examples)[: steps * batch]
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == np.int64
    assert len(set(rows)) == steps * batch


@settings(deadline=None)
@given(size=sizes, seed=st.integers(0, 9), steps=st.lists(st.integers(0, 500), max_size=12))
def test_a_function_of_the_step_alone(size: tuple[int, int], seed: int, steps: list[int]) -> None:
    """Whatever was asked for before, and however often."""
    used = Sampler(*size, seed)
    for step in steps:
        rows = used.rows(step)
        np.testing.assert_array_equal(rows, Sampler(*size, seed).rows(step))
        rows[:] = -1  # what is handed out is the caller's own


def test_epochs_and_seeds_differ() -> None:
    first, second = Sampler(100, 100, 1), Sampler(100, 100, 2)
    assert not np.array_equal(first.rows(0), first.rows(1))
    assert not np.array_equal(first.rows(0), second.rows(0))


def test_it_remembers_two_epochs_at_most() -> None:
    made: list[int] = []

    class Counted(Sampler):
        def _made(self, epoch: int) -> NDArray[np.int64]:
            made.append(epoch)
            return super()._made(epoch)

    sampler = Counted(10, 5, 1)
    for step in (0, 2, 1, 3, 0, 2):  # two epochs side by side, as with hard negatives
        sampler.rows(step)
    assert made == [0, 1]
    sampler.rows(4)
    sampler.rows(3)
    assert made == [0, 1, 2]
    sampler.rows(0)
    assert made == [0, 1, 2, 0]


def test_a_minibatch_larger_than_the_set() -> None:
    with pytest.raises(
        UserError, match=r"training\.batch_size is 11, but there are 10 training examples: give 1 to 10"
    ):
        Sampler(10, 11, 1)


def test_the_order_of_the_file_is_that_of_all_epochs() -> None:
    sampler = Sampler(10, 4, 1, shuffles=False)
    assert [sampler.rows(step).tolist() for step in range(4)] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2

"""Functions of torch give the bits of one thread on any number of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from covering import in_turn
from torch import Tensor

from ffpipe.learn import threads
from ffpipe.learn.contrast import make_pair_loss
from ffpipe.learn.thread_count import one_thread
from ffpipe.learn.threads import GRAIN

pytestmark = pytest.mark.usefixtures("threads_put_back")

Function = Callable[[Tensor], Tensor]

FUNCTIONS: list[tuple[Function, Function]] = [
    (threads.total, torch.sum),
    (partial(threads.total, dim=0), partial(torch.sum, dim=0)),
    (partial(threads.total, dim=1), partial(torch.sum, dim=1)),
    (threads.mean, torch.mean),
    (partial(threads.mean, dim=0), partial(torch.mean, dim=0)),
    (threads.sum_of_squares, lambda rows: torch.linalg.vecdot(rows, rows)),
    (threads.sigmoid, torch.sigmoid),
    (threads.softplus, torch.nn.functional.softplus),
    (threads.log_softmax, partial(torch.log_softmax, dim=1)),
    (threads.exp, torch.exp),
    (threads.sqrt, torch.sqrt),
]
# 50,001 and 60,000 are not shared out in whole vectors; of 38 columns a thread may get the last six alone.
SHAPES = [
    (1275, 38),
    (1, GRAIN - 1),
    (1, GRAIN),
    (1, 50_001),
    (50_001, 1),
    (60_000, 1),
    (2, GRAIN),
    (300, 1000),
    (3, 0),
]


@pytest.mark.parametrize(("functions", "shape", "dtype"), in_turn(FUNCTIONS, SHAPES, [torch.float32, torch.float64]))
def test_any_number_of_threads(
    functions: tuple[Function, Function], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    ours, of_torch = functions
    for seed in range(4):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        torch.set_num_threads(1)
        expected = of_torch(values)
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            torch.testing.assert_close(ours(values), expected, rtol=0, atol=0, equal_nan=True)
            assert torch.get_num_threads() == count


@pytest.mark.parametrize("kind", ["hinton", "softplus", "symba"])
@pytest.mark.parametrize("pairs", [50_000, 60_000])
def test_objectives_of_full_batches(kind: str, pairs: int) -> None:
    objective = make_pair_loss(kind, "mean", 10, 1.5, 1.0)
    for seed in range(4):
        positive, negative = torch.randn(2, pairs, generator=torch.Generator().manual_seed(seed))
        torch.set_num_threads(1)
        one = objective(positive, negative)
        for count in (2, 3):
            torch.set_num_threads(count)
            assert all(map(torch.equal, one, objective(positive, negative))), count


def test_one_thread_ends_with_an_error_too() -> None:
    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError, match="1"), one_thread():
        raise ZeroDivisionError(torch.get_num_threads())
    assert torch.get_num_threads() == 3

"""That sums are those of torch on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ffpipe.ff.threads import GRAIN, mean, one_thread, row_totals, total


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("ours", "of_torch"), [(total, Tensor.sum), (mean, Tensor.mean), (row_totals, lambda rows: rows.sum(1))]
)
@pytest.mark.parametrize("shape", [(1, GRAIN - 1), (1, GRAIN), (1, 3 * GRAIN), (GRAIN, 1), (2, GRAIN), (300, 1000)])
def test_any_number_of_threads(
    ours: Callable[[Tensor], Tensor], of_torch: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(1)
    expected = of_torch(values)
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(ours(values), expected), threads
        assert torch.get_num_threads() == threads


def test_one_thread_ends_with_an_error_too() -> None:
    @one_thread()
    def fails() -> None:
        raise ZeroDivisionError(torch.get_num_threads())

    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError, match="1"):
        fails()
    assert torch.get_num_threads() == 3

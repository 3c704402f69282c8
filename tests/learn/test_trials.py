"""Functions keep the bits of one thread: those that depend on threads are found by trial, and no others are held up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from memory_tensors import peak_bytes
from torch import Tensor

from ffpipe.learn import trials
from ffpipe.learn.products import _cancel, mm
from ffpipe.learn.trials import LARGEST, LINE, LONG, RANDOM, SHORT, steady

THREADS = 3
calls: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_tried(threads_put_back: None) -> Iterator[None]:
    trials._same.clear()
    torch.set_num_threads(THREADS)
    calls.clear()
    yield
    calls.clear()


def steadfast(values: Tensor) -> Tensor:
    calls.append(torch.get_num_threads())
    return values * 2


def fickle(values: Tensor) -> Tensor:
    return steadfast(values) * torch.get_num_threads()


def seldom(values: Tensor) -> Tensor:
    """Return a result that differs on more than one thread in a single number, every third time."""
    made = steadfast(values)
    made.view(-1)[-1] += torch.get_num_threads() > 1 and calls.count(THREADS) % 3 == 0
    return made


def test_what_depends_on_threads_is_made_by_one() -> None:
    values = torch.ones(8, 8)
    assert torch.equal(steady(fickle, (values,), terms=LONG), fickle(torch.ones(8, 8)) / THREADS)
    assert calls[-2:] == [1, THREADS]  # the function, and what it is held against here
    steady(steadfast, (values,), terms=LONG)
    assert calls[-1] == THREADS


@pytest.mark.parametrize("terms", [SHORT, LONG])
def test_a_single_number_that_differs_at_times_is_found_where_rows_are_odd(terms: int) -> None:
    steady(seldom, (torch.ones(8, 7),), terms=terms)
    assert calls[-1] == 1


def test_a_form_is_tried_once() -> None:
    for _ in range(2):
        before = len(calls)
        steady(steadfast, (torch.ones(8, 8),), terms=LONG)
    assert len(calls) - before == 1


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(8, 4),
        torch.ones(8, 8).t().contiguous().t().unsqueeze(0)[0],
        torch.ones(8, 8, dtype=torch.float64),
        torch.ones(65)[1:].view(8, 8),
    ],
    ids=["sizes", "strides", "dtype", "place in a line"],
)
def test_another_form_is_tried_anew(other: Tensor) -> None:
    steady(steadfast, (torch.ones(8, 8),), terms=LONG)
    before = len(calls)
    steady(steadfast, (other,), terms=LONG)
    assert len(calls) - before > 1


def test_another_number_of_threads_is_tried_anew() -> None:
    steady(steadfast, (torch.ones(8, 8),), terms=LONG)
    torch.set_num_threads(2)
    steady(steadfast, (torch.ones(8, 8),), terms=LONG)
    assert calls[-3:] == [1, 2, 2]


def test_operands_of_a_trial_are_as_the_real_ones_and_not_these() -> None:
    seen: list[Tensor] = []

    def spied(values: Tensor) -> Tensor:
        seen.append(values)
        return values.mul_(2)

    memory = torch.zeros(200)
    values = memory[3:150].view(7, 21)[:, 2:9].t()
    state = torch.get_rng_state()
    steady(spied, (values,), terms=LONG)
    assert torch.equal(torch.get_rng_state(), state)
    assert not memory.any()
    *tried, last = seen
    assert last is values
    for operand in tried:
        assert (operand.shape, operand.stride()) == (values.shape, values.stride())
        assert operand.data_ptr() % LINE == values.data_ptr() % LINE
        assert operand.unique().numel() == operand.numel()


def test_what_is_too_large_or_sums_too_few_to_show_it_is_not_tried() -> None:
    steady(steadfast, (torch.ones(8, 7),), terms=SHORT - 1)
    assert set(calls) == {1}
    steady(steadfast, (torch.zeros(8, LARGEST // 8 + 1, dtype=torch.int8),), terms=LONG)
    assert set(calls) == {1}


def test_nothing_is_tried_on_one_thread() -> None:
    torch.set_num_threads(1)
    steady(fickle, (torch.ones(8, 8),), terms=LONG)
    assert calls == [1]


def in_turn(rows: Tensor, weight: Tensor) -> Tensor:
    """Make the product in bfloat16, the sums in float32: from the first term on one thread, from the last on more."""
    terms = [rows[:, i : i + 1].float() * weight[i : i + 1].float() for i in range(len(weight))]
    calls.append(torch.get_num_threads())
    total = torch.zeros(len(rows), weight.shape[1])
    for term in terms if torch.get_num_threads() == 1 else terms[::-1]:
        total += term
    return total.to(torch.bfloat16)


def test_rounding_to_bfloat16_hides_no_order_of_sums() -> None:
    rows, weight = torch.randn(4, 70).to(torch.bfloat16), torch.randn(70, 8).to(torch.bfloat16)
    steady(in_turn, (rows, weight), terms=70, adapt=_cancel)
    assert calls == [1, THREADS, 1]


def test_a_trial_takes_memory_for_one_set_of_operands() -> None:
    rows, weight, out = torch.randn(200, 600), torch.randn(600, 800), torch.empty(200, 800)
    operands = rows.nbytes + weight.nbytes + out.nbytes
    assert operands <= peak_bytes(lambda: void(mm(rows, weight, out))) <= 1.1 * operands + 4 * RANDOM


def void(_: object) -> None:
    """Let go of what was made."""

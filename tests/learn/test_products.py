"""Products are those of torch, and have the same bits on any number of threads."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import only
from torch import Tensor

from ffpipe.learn import products, trials
from ffpipe.learn.products import accumulate, addmm, matmul, mm

pytestmark = pytest.mark.usefixtures("threads_put_back")

# Rows, features and widths of layers, of heads, and of gradients.
SIZES = [*itertools.product((50, 300), (74, 784), (10, 500, 1000)), *((k, 50, 500) for k in (64, 784))]
# Shapes that came out differently on two threads of an AMD processor: in many numbers, or in one.
ODD = [(74, 200, 53), (300, 200, 53), (42, 49, 217), (79, 33, 197), (179, 68, 127), (27, 157, 135), (111, 470, 177)]


def each_way(dtype: torch.dtype, n: int, k: int, m: int) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(n + k + m)
    rows, weight, total, bias = (torch.randn(*of, generator=chance).to(dtype) for of in ((n, k), (k, m), (n, m), (m,)))
    across = rows.t().contiguous().t()  # as the rows of a gradient are
    return {
        "mm": mm(rows, weight, torch.empty_like(total)),
        "addmm": addmm(bias, rows, weight, torch.empty_like(total)),
        "accumulate": accumulate(total.clone(), across, weight, 0.9, 0.1),
    }


def same_bits_on_any_number_of_threads(dtype: torch.dtype) -> list[str]:
    """List the products that are not."""
    found = []
    chance = random.Random(1)
    drawn = [tuple(chance.randint(*of) for of in ((8, 200), (64, 300), (8, 300))) for _ in range(12)]
    usual = [] if dtype == torch.bfloat16 else SIZES  # which takes a minute where a processor has no such products
    for n, k, m in [*ODD, *drawn, *usual]:
        torch.set_num_threads(1)
        one = each_way(dtype, n, k, m)
        for threads in (2,) if (n, k, m) in usual else (2, 3):
            torch.set_num_threads(threads)
            more = each_way(dtype, n, k, m)
            found += [f"{name} {n, k, m} on {threads}" for name in one if not torch.equal(one[name], more[name])]
    return found


@pytest.mark.parametrize("dtype", only([torch.float32], [torch.float32, torch.float64, torch.bfloat16]))
def test_threads_do_not_matter(dtype: torch.dtype) -> None:
    assert same_bits_on_any_number_of_threads(dtype) == []


@pytest.mark.long
def test_threads_do_not_matter_where_mkl_is_told_otherwise() -> None:
    """MKL_CBWR as a user has it is left alone; where products depend on threads then, one thread makes them."""
    program = "import torch, test_products; print(test_products.same_bits_on_any_number_of_threads(torch.float32))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "MKL_CBWR": "OFF", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_they_are_the_products_of_torch() -> None:
    chance = torch.Generator().manual_seed(1)
    rows, weight, total = (torch.randn(*of, generator=chance, dtype=torch.float64) for of in ((5, 7), (7, 3), (5, 3)))
    out = torch.empty_like(total)
    torch.testing.assert_close(mm(rows, weight), rows @ weight)
    assert mm(rows, weight, out) is out
    torch.testing.assert_close(addmm(total[0], rows, weight, out), total[0] + rows @ weight)
    expected = 0.9 * total + 0.1 * (rows @ weight)
    assert accumulate(total, rows, weight, 0.9, 0.1) is total
    torch.testing.assert_close(total, expected)


@pytest.fixture
def threads_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record every product of torch, and on how many threads it is made."""
    seen: list[tuple[str, int]] = []

    def spied(of_torch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def product(*arguments: Tensor, **named: Any) -> Tensor:
            seen.append((of_torch.__name__, torch.get_num_threads()))
            return of_torch(*arguments, **named)

        return product

    monkeypatch.setattr(torch, "mm", spied(torch.mm))
    monkeypatch.setattr(torch, "addmm", spied(torch.addmm))
    monkeypatch.setattr(torch, "matmul", spied(torch.matmul))
    monkeypatch.setattr(Tensor, "addmm_", spied(Tensor.addmm_))
    return seen


@pytest.mark.parametrize("sizes", [(300, 784, 1000), (200, 2000, 512)])
def test_wide_products_use_all_threads(sizes: tuple[int, int, int], threads_of: list[tuple[str, int]]) -> None:
    torch.set_num_threads(2)
    n, k, m = sizes
    rows, weight, bias, out = torch.randn(n, k), torch.randn(k, m), torch.randn(m), torch.empty(n, m)
    mm(rows, weight, out)
    assert threads_of[-1] == ("mm", 2)
    addmm(bias, rows, weight)
    assert threads_of[-1] == ("addmm", 2)
    accumulate(weight, rows.t(), out, 0.9, 0.1)
    assert threads_of[-1] == ("addmm_", 2)


@pytest.mark.parametrize(("depends", "inside"), [(True, 1), (False, 3)])
def test_one_thread_only_where_it_must_be(
    depends: bool, inside: int, threads_of: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fickle(of_torch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *arguments, **named: of_torch(*arguments, **named).mul_(torch.get_num_threads())

    if depends:
        for name in ("mm", "addmm", "matmul"):
            monkeypatch.setattr(torch, name, fickle(getattr(torch, name)))
        monkeypatch.setattr(Tensor, "addmm_", fickle(Tensor.addmm_))
    trials._same.clear()
    torch.set_num_threads(3)
    ones = torch.ones(64, 64)
    made: dict[str, Callable[[], Tensor]] = {
        "mm": lambda: mm(ones, ones),
        "addmm": lambda: addmm(ones[0], ones, ones),
        "addmm_": lambda: accumulate(ones.clone(), ones, ones),
        "matmul": lambda: matmul(ones, ones.expand(2, 64, 64)),
    }
    for name, product in made.items():
        product()
        assert threads_of[-1] == (name, inside)
    assert torch.get_num_threads() == 3
    trials._same.clear()  # of what torch does not do


def test_a_small_product_is_made_by_one_thread_untried(threads_of: list[tuple[str, int]]) -> None:
    torch.set_num_threads(3)
    mm(torch.ones(63, 64), torch.ones(64, 64))
    assert threads_of == [("mm", 1)]


def test_bfloat16_is_left_to_one_thread_where_there_is_amx(
    threads_of: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's products depend on threads there for a few sizes, so seldom that no trial need show it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    products._has_amx.cache_clear()
    torch.set_num_threads(3)
    ones = torch.ones(64, 64, dtype=torch.bfloat16)
    mm(ones, ones)
    products._has_amx.cache_clear()
    assert threads_of == [("mm", 1)]

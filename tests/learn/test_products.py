"""Products are those of torch, and have the same bits on any number of threads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ffpipe.learn import products
from ffpipe.learn.products import accumulate, addmm, mm

pytestmark = pytest.mark.usefixtures("threads_put_back")

# Rows, features and widths of layers, of heads, and of gradients.
SIZES = [*itertools.product((50, 150, 300), (74, 784, 1000, 2000), (10, 500, 2000)), *((k, 50, 500) for k in (64, 784))]


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
    """Products that are not."""
    found = []
    for sizes in SIZES:
        torch.set_num_threads(1)
        one = each_way(dtype, *sizes)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            more = each_way(dtype, *sizes)
            found += [f"{name} {sizes} on {threads}" for name in one if not torch.equal(one[name], more[name])]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_threads_do_not_matter(dtype: torch.dtype) -> None:
    assert same_bits_on_any_number_of_threads(dtype) == []


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


@pytest.mark.parametrize(("depends", "inside"), [(True, 1), (False, 3)])
def test_one_thread_only_where_it_must_be(depends: bool, inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spied(of_torch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def product(*arguments: Tensor, **named: Any) -> Tensor:
            seen.append((of_torch.__name__, torch.get_num_threads()))
            return of_torch(*arguments, **named)

        return product

    monkeypatch.setattr(products, "depends_on_threads", lambda dtype, threads: depends)
    monkeypatch.setattr(torch, "mm", spied(torch.mm))
    monkeypatch.setattr(torch, "addmm", spied(torch.addmm))
    monkeypatch.setattr(Tensor, "addmm_", spied(Tensor.addmm_))
    torch.set_num_threads(3)
    ones = torch.ones(2, 2)
    mm(ones, ones)
    addmm(ones[0], ones, ones)
    accumulate(ones.clone(), ones, ones)
    assert seen == [("mm", inside), ("addmm", inside), ("addmm_", inside)]
    assert torch.get_num_threads() == 3


def test_bfloat16_is_left_to_one_thread_where_there_is_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's products depend on threads there for a few sizes that no probe need find."""
    products.depends_on_threads.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert products.depends_on_threads(torch.bfloat16, 2)
    products.depends_on_threads.cache_clear()

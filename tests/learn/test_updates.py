"""An update's state goes where its parameters are."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from covering import in_turn
from torch import Tensor

from ffpipe.config.optimizer import torch_optimizers
from ffpipe.config.schema import Optimizer
from ffpipe.learn.updates import Update, make_update
from ffpipe.learn.workspace import Workspace

ROWS, FAN_IN, WIDTH = 5, 4, 3


def made(kind: str, device: str) -> Update:
    weight, bias = torch.zeros(FAN_IN, WIDTH, device=device), torch.zeros(WIDTH, device=device)
    return make_update(weight, bias, Optimizer(kind=kind), weight, Workspace(torch.device(device)))


@pytest.mark.parametrize("kind", ["averaging", "SGD", "Adam", "Adagrad", "RMSprop", "Adafactor"])
def test_what_was_read_into_memory_goes_to_the_device(kind: str) -> None:
    """A device without arithmetic shows it as well as any."""
    update = made(kind, "cpu")
    update.step(torch.rand(ROWS, FAN_IN), torch.rand(ROWS, WIDTH), ROWS, 1.0)
    elsewhere = made(kind, "meta")
    elsewhere.load({name: tensor.clone() for name, tensor in update.state().items()})
    found = elsewhere.state()
    assert set(found) == set(update.state())
    assert all(tensor.device.type == "meta" for name, tensor in found.items() if not name.endswith(".step"))


def test_a_state_that_was_loaded_is_its_own() -> None:
    update, other = made("Adam", "cpu"), made("Adam", "cpu")
    update.step(torch.rand(ROWS, FAN_IN), torch.rand(ROWS, WIDTH), ROWS, 1.0)
    other.load(update.state())
    before = {name: tensor.clone() for name, tensor in other.state().items()}
    update.step(torch.rand(ROWS, FAN_IN), torch.rand(ROWS, WIDTH), ROWS, 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["averaging", *torch_optimizers()])
def test_one_that_goes_on_makes_the_bits_of_one_that_never_stopped(kind: str, dtype: torch.dtype) -> None:
    def begun() -> tuple[Tensor, Update]:
        weight = torch.ones(FAN_IN, WIDTH, dtype=dtype)
        settings = Optimizer(kind=kind, learning_rate=0.01)
        return weight, make_update(weight, None, settings, weight, Workspace(torch.device("cpu")))

    def step(update: Update) -> None:
        rows, delta = (torch.rand(ROWS, of, generator=chance, dtype=dtype) for of in (FAN_IN, WIDTH))
        update.step(rows, delta, ROWS, 1.0)

    chance = torch.Generator().manual_seed(1)
    (unbroken, first), (resumed, second) = begun(), begun()
    for _ in range(3):
        step(first)
    resumed.copy_(unbroken)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    before = chance.get_state()
    for update in (first, second):
        chance.set_state(before)
        for _ in range(3):
            step(update)
    assert torch.equal(unbroken, resumed)
    kept = second.state()
    for name, tensor in first.state().items():
        assert kept[name].dtype == tensor.dtype, name
        assert torch.equal(kept[name], tensor), name


# Sizes that torch computes on several threads; the second is summed over in norms and means.
LARGE = [(300, 200), (40_000, 10)]
OPTIONS: list[dict[str, Any]] = [{}, {"foreach": True}, {"fused": True}]


def after_updates(threads: int, settings: Optimizer, fan_in: int, width: int, products: torch.dtype) -> list[Tensor]:
    torch.set_num_threads(threads)
    chance = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(fan_in, width, generator=chance), torch.zeros(width)
    factor = weight.to(products)
    update = make_update(weight, bias, settings, factor, Workspace(torch.device("cpu")))
    for _ in range(3):
        rows = torch.randn(ROWS, fan_in, generator=chance).to(products)
        update.step(rows, torch.randn(ROWS, width, generator=chance), ROWS, 1.0)
    return [weight, bias, factor, *update.state().values()]


def options_of(kind: str) -> list[dict[str, Any]]:
    if kind == "averaging":
        return [{}]
    known = inspect.signature(getattr(torch.optim, kind)).parameters
    return [options for options in OPTIONS if options.keys() <= known.keys()]


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize(
    ("kind", "size", "products"), in_turn(["averaging", *torch_optimizers()], LARGE, [torch.float32, torch.bfloat16])
)
def test_threads_do_not_matter(kind: str, size: tuple[int, int], products: torch.dtype) -> None:
    fan_in, width = size
    for options in options_of(kind):
        settings = Optimizer(kind=kind, learning_rate=0.01, options=options)
        one = after_updates(1, settings, fan_in, width, products)
        for threads in (2, 3):
            more = after_updates(threads, settings, fan_in, width, products)
            assert all(map(torch.equal, one, more)), (threads, options)

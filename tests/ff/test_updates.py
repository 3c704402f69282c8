"""An update's state goes where its parameters are."""

from __future__ import annotations

import pytest
import torch

from ffpipe.config import Optimizer
from ffpipe.ff.updates import Update, make_update
from ffpipe.ff.workspace import Workspace

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

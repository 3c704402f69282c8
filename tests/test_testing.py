"""Checks of a user's blocks: they find what breaks a promise, name its block, and pass what keeps to all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from wrong_items import Mine

from ffpipe import Learned, Local, Objective, testing
from ffpipe.learn.block import Step
from ffpipe.learn.spec import RowLayout

DIGITS: dict[str, Any] = {"shape": (8, 8), "classes": 10}


def after(item: Any, *others: Any) -> Callable[[], list[Any]]:
    return lambda: [nn.Flatten(), item, *others]


class Growing(Objective):
    """An objective that hands on more at every step, by a number that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.t = 0

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        assert labels is not None
        self.t += 1
        return Learned(nn.functional.cross_entropy(h, labels, reduction="sum"), (h.argmax(1) != labels).sum())

    def hand_on(self, h: Tensor) -> Tensor:
        return h * (1 + self.t)


class Own(Mine):
    """A block that computes its own update, and does something else beside."""

    def __init__(self, does: Callable[[Tensor, Tensor], Any] = lambda x, out: None) -> None:
        super().__init__()
        self.does = does

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        made = super().learn(x, layout, labels, step, out, kept)
        came = self.does(x, out)
        return came if isinstance(came, Learned) else made


class Rebinding(Mine):
    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        out = x @ self.weight  # and not into the rows that were given for it
        return Learned(out.sum(), torch.zeros(()))


class Averaging(nn.Module):
    """A layer that keeps a running mean with the graph of all steps, as a buffer or as an attribute."""

    def __init__(self, *, buffer: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        if buffer:
            self.register_buffer("mean", torch.zeros(10))
        else:
            self.mean = torch.zeros(10)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        return h


def noisy(x: Tensor, out: Tensor) -> None:
    out.add_(float(np.random.rand()))  # noqa: NPY002  # the generator that all share


def vectors(x: Tensor, out: Tensor) -> Learned:
    return Learned(torch.zeros(3), torch.zeros(3))


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a number in an objective": (
        lambda: Local(nn.Linear(64, 10), Growing()),
        r"\(Linear\) is not what it was .*: in \['what it",
    ),
    "out rebound": (Rebinding, r"\(Rebinding\) .* leaves rows of `out` as they were: in \['what it hands on'\]"),
    "a shared generator": (lambda: Own(noisy), r"\(Own\) draws from a generator that others draw from"),
    "Learned of vectors": (
        lambda: Own(vectors),
        r"\(Own\): learn returned Learned of a float32 tensor of shape \(3,\)",
    ),
    "a buffer with a graph": (lambda: Averaging(buffer=True), r"\['body.mean'\] of block 1 \(Averaging\) keep a graph"),
    "an attribute with one": (lambda: Averaging(buffer=False), r"\['mean'\] of block 1 \(Averaging\) keep a graph"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_a_promise_is_found(fault: str) -> None:
    make, says = FAULTS[fault]
    with pytest.raises(AssertionError, match=says) as caught:
        testing.check_blocks(after(make()), **DIGITS)
    assert "block 1 (" in str(caught.value)


class Relabelling(Mine):
    """A block that writes into its labels."""

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        made = super().learn(x, layout, labels, step, out, kept)
        labels.zero_()
        return made


@pytest.mark.parametrize("block", [Own(lambda x, out: x.mul_(0.5)), Relabelling()])
def test_rows_and_labels_that_are_written_into_are_found(block: Mine) -> None:
    network = testing.blueprint_of(after(block), **DIGITS)
    with pytest.raises(AssertionError, match=r"block 1 \(.*\): it writes into the rows that it gets"):
        testing.check_stateless(network, 1)


class Through(nn.Module):
    """A body without weights."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: Tensor) -> Tensor:
        return self.does(x)


def idle(h: Tensor, labels: Tensor) -> Tensor:
    """Judge a body that has nothing to learn."""
    return h.abs().float().mean()


class Reading(nn.Module):
    """A layer that makes real numbers of what comes, and then logits."""

    def __init__(self, real: nn.Module, width: int) -> None:
        super().__init__()
        self.real, self.linear = real, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear(self.real(x).flatten(1))
        return made


RIGHT: dict[str, Callable[[], list[Any]]] = {
    "a block that computes its own update": after(Own(), nn.Linear(64, 10)),
    "bools": after(Local(Through(lambda x: x > 0.5), lambda h, labels: h.float().mean()),
                   Reading(Through(Tensor.float), 64)),
    "complex numbers": after(Local(Through(torch.fft.rfft), idle), Reading(Through(torch.abs), 33)),
    "whole numbers below those of classes": after(
        Local(Through(lambda x: (x * 3.99).long()), idle), Reading(nn.Embedding(4, 4), 256)
    ),
    "roots of pixels": after(Reading(Through(torch.sqrt), 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_keeps_its_promises_passes(name: str) -> None:
    testing.check_blocks(RIGHT[name], **DIGITS)


class Symbols(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(17, 16)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.table(ids)
        return made


def test_engines_train_on_tokens(tmp_path: Path) -> None:
    ways = ({"engine": "local", "stages": 1, "chunk": 1}, {"engine": "layerwise", "stages": 0, "chunk": 2})
    found = testing.check_engines(
        lambda: [Symbols(), nn.Linear(16, 16)],
        shape=(12,),
        classes=17,
        folder=str(tmp_path / "new" / "runs"),  # made where it is not there
        ways=ways,
        inputs="tokens",
    )
    assert len(found) == 64

"""Modules, objectives, blocks and functions that are wrong, each in one way (learn/test_refused_items.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ffpipe
from ffpipe import Learned, Local, RowSpec
from ffpipe.learn.block import Step
from ffpipe.learn.spec import RowLayout

ROW = RowSpec((64,), torch.float32)


class Unbegun(nn.Module):
    """A module that does not begin as torch's do."""

    def __init__(self) -> None:
        self.k = 3

    def forward(self, x: Tensor) -> Tensor:
        return x


class Around(nn.Module):
    """A module with another one in it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Tensor) -> Tensor:
        return given[0]


@dataclass
class Compared(nn.Module):
    """Equal to another one of the same fields, and without a hash."""

    k: int = 3

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass(unsafe_hash=True)
class Alike(Compared):
    """Equal to another one of the same fields, also in a set."""


class Counting(nn.Module):
    """A module with a state that is not a tensor."""

    def get_extra_state(self) -> Any:
        return 3

    def forward(self, x: Tensor) -> Tensor:
        return x


class Noisy(nn.Module):
    """A module that draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=self.noise)


class Whole(nn.Module):
    """A body that makes whole numbers, from which the default objective cannot learn."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).long()


class Graphed(nn.Module):
    """A module that keeps what it makes of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.weight = self.scale * 2

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Copying(nn.Linear):
    """Linear, with copies of its weights in its state_dict."""

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {name: kept.clone() for name, kept in super().state_dict(*args, **options).items()}


class Forgetting(nn.Linear):
    """Linear, with no bias in its state_dict."""

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {name: kept for name, kept in super().state_dict(*args, **options).items() if name != "bias"}


class Judge(ffpipe.Objective):
    """An objective whose methods return what it is given, or call it."""

    def __init__(self, hand_on: Any = None, score: Any = None, roles: Any = ("examples",)) -> None:
        super().__init__()
        self.roles = roles
        self.makes = {"hand_on": hand_on or (lambda h: h), "score": score or (lambda h: h)}

    def hand_on(self, h: Tensor) -> Any:
        return self.makes["hand_on"](h)

    def score(self, h: Tensor) -> Any:
        return self.makes["score"](h)

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        assert labels is not None
        return Learned(nn.functional.cross_entropy(h, labels, reduction="sum"), h.sum())


class Shy(Judge):
    """An objective that cannot tell whether it is silent."""

    @property
    def is_silent(self) -> bool:
        raise ValueError("no")


class Mine(ffpipe.Block):
    """A block that computes its own update."""

    def __init__(self, index: Any = 1, **attributes: Any) -> None:
        super().__init__()
        self.index, self.inputs, self.outputs = index, ROW, ROW
        self.weight = nn.Parameter(torch.eye(64))
        vars(self).update(attributes)

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, None]:
        return x @ self.weight, None

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        out.copy_(x @ self.weight)
        return Learned(torch.zeros(()), torch.zeros(()))

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Any = ()) -> None:
        out.copy_(x @ self.weight)


class Bare(ffpipe.Block):
    """A block whose attributes are to be set."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        vars(self).update({name: 1 if name == "index" else ROW for name in names})


class Computed(Mine):
    """A block with an attribute that fails."""

    @property
    def keep(self) -> str:  # type: ignore[override]
        raise ValueError("no")


class Unlearning(Mine):
    """A block that has no way to learn."""

    learn = ffpipe.Block.learn


class Unscored(Mine):
    """A block that has no way to be read."""

    score = ffpipe.Block.score  # type: ignore[assignment]


class Staying(Mine):
    """A block that passes nothing on."""

    pass_on = ffpipe.Block.pass_on


class UnbegunBlock(ffpipe.Block):
    """A block that does not begin as torch's modules do."""

    def __init__(self) -> None:
        self.index = 1


class CountingBlock(Mine):
    """A block with a state that is not a tensor."""

    def get_extra_state(self) -> Any:
        return 3


def loss(h: Tensor, labels: Tensor) -> Tensor:
    """Judge logits by a plain function."""
    return nn.functional.cross_entropy(h, labels)


def failing(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises an error."""

    def fails(*_: Any) -> Any:
        raise error

    return fails


def ten(**fields: Any) -> Local:
    """Return an item whose body makes rows of ten numbers."""
    return Local(nn.Linear(64, 10), **fields)

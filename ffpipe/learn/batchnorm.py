"""Batch normalisation over a minibatch that is cut into shards: its statistics are added up over all of them.

    y = (x - mean) / sqrt(variance + epsilon) * weight + bias,  mean and variance over all shards, by channel

In the backward pass the sums of the slope, and of the slope times y, are added up on the same way. Modules are marked
when they are made, and become this kind where there is more than one shard: else they are torch's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ffpipe.learn.meeting import Meeting
from ffpipe.learn.shards import Shards
from ffpipe.system.errors import UserError

M = TypeVar("M", bound=nn.Module)
# A mark on the module itself, so that copies have it: where modules are made, the number of shards is not known.
MARK = "over_minibatch"

# By thread, as each pass of a meeting has one; and not an argument, as users' modules call `forward` with their own.
_pass = threading.local()


@dataclass
class _Pass:
    """One pass of a meeting, and how often it has met."""

    meeting: Meeting
    of: Shards
    met: int = 0


@contextmanager
def passing(meeting: Meeting, of: Shards) -> Iterator[None]:
    """Have batch normalisation within one pass of a meeting be over all shards."""
    _pass.now = _Pass(meeting, of)
    try:
        yield
    finally:
        # A pass that is alone has the thread of its caller, who goes on to other things.
        _pass.now = None


def over_minibatch(module: M) -> M:
    """Declare that the batch normalisation in a module may be over the shards of a minibatch; returns the module."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            setattr(part, MARK, True)
    return module


def share(module: nn.Module, name: str = "") -> None:
    """Make all marked batch normalisation in a module be over shards. name: of the module within its block."""
    for path, part in module.named_modules(prefix=name):
        # Not of a subclass, whose own forward would be lost: it stays what it is, and local.undivided_part refuses it.
        if getattr(part, MARK, False) and type(part) in KINDS:
            # The class alone: what others hold, its parameters and their names in a snapshot stay.
            part.__class__ = KINDS[type(part)]
            part.path = path


class Shared(_BatchNorm):
    """The common part of the kinds below. Outside of a pass, as in evaluations, it is torch's own. path: its place in a
    block."""

    path = ""

    def forward(self, input: Tensor) -> Tensor:
        # torch.export need not follow what is kept by thread: in what it records there are no shards.
        now: _Pass | None = None if torch.compiler.is_compiling() else getattr(_pass, "now", None)
        if not self.training or now is None:
            # A pass that is made again would be over its own shard alone, and move the running statistics once more.
            if self.training and torch._C._current_graph_task_id() >= 0:
                raise UserError(
                    "batch normalisation over shards is made again in the backward pass, as by torch.utils.checkpoint, "
                    "where other shards are not at hand: leave that out, or give --training.shards 1"
                )
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]  # torch has no hint for it
        of = now.of
        now.met += 1
        name = f"batch normalisation {self.path} ({now.met})"

        joined = False

        def join(rows: list[Tensor]) -> Sequence[Tensor]:
            nonlocal joined
            joined = True
            count = rows[0].numel() // rows[0].shape[1] * of.count
            normalized: list[Tensor] = _Normalized.apply(of, name, self.eps, count, *rows)  # type: ignore[no-untyped-call]
            mean, variance, *made = normalized
            self._track(mean, variance, count)
            return made

        made: Tensor = now.meeting.meet(name, input, join)
        if not joined:  # another pass has made the node of all; autograd counts one here too (local_shards.py)
            _Counted.apply(input)  # type: ignore[no-untyped-call]
        # Not in `join`: each pass has a weight of its own (local_shards.py), whose gradient is that of its shard.
        if self.affine:
            shape = (-1, *[1] * (input.dim() - 2))
            made = made * self.weight.view(shape) + self.bias.view(shape)
        return made.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, once a minibatch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        # As torch has it: rows are normalised by the biased variance, and the running one is not biased.
        unbiased = variance * (count / max(1, count - 1))
        self.running_mean.mul_(1.0 - share).add_(mean.to(self.running_mean.dtype), alpha=share)
        self.running_var.mul_(1.0 - share).add_(unbiased.to(self.running_var.dtype), alpha=share)


class _Normalized(torch.autograd.Function):
    """Mean and variance over all shards, (channels,) float64, and the rows of each shard here, normalised."""

    @staticmethod
    def forward(ctx: Any, of: Shards, name: str, eps: float, count: int, *rows: Tensor) -> Any:
        ctx.of, ctx.name, ctx.count = of, name, count
        ctx.dims = [dim for dim in range(rows[0].dim()) if dim != 1]
        # Both at once, in one exchange between replicas: squares of distances from the mean would take a second one.
        sums, squares = of.sum(name, (_sums(each, each, ctx.dims) for each in rows))
        mean = sums / count
        # Rounding may leave less than 0 where all values of a channel are alike.
        variance = (squares / count - mean.square()).clamp_min_(0.0)
        shape = (-1, *[1] * (rows[0].dim() - 2))
        scale = (variance + eps).rsqrt().to(rows[0].dtype).view(shape)
        made = [(each - mean.to(each.dtype).view(shape)) * scale for each in rows]
        ctx.save_for_backward(scale, *made)
        ctx.mark_non_differentiable(mean, variance)
        return (mean, variance, *made)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        scale, *made = ctx.saved_tensors
        given = slopes[2:]
        parts = (_sums(slope, each, ctx.dims) for slope, each in zip(given, made, strict=True))
        sums, products = (
            (each / ctx.count).to(scale.dtype).view_as(scale) for each in ctx.of.sum(f"{ctx.name}, backward", parts)
        )
        back = [(slope - sums - each * products) * scale for slope, each in zip(given, made, strict=True)]
        return (None, None, None, None, *back)


class _Counted(torch.autograd.Function):
    """A node that is counted, and that nothing leads back to."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        raise AssertionError("nothing leads back to it")


def _sums(rows: Tensor, others: Tensor, dims: list[int]) -> list[Tensor]:
    """Sum rows, and their products with others, by channel: (channels,) float64 each."""
    # Wide, as the variance is a difference of these, in which most digits of a float32 could go.
    wide = rows.to(torch.float64)
    return [wide.sum(dims), (wide * others).sum(dims)]


class BatchNorm1d(Shared, nn.BatchNorm1d):
    """nn.BatchNorm1d over all shards."""


class BatchNorm2d(Shared, nn.BatchNorm2d):
    """nn.BatchNorm2d over all shards."""


class BatchNorm3d(Shared, nn.BatchNorm3d):
    """nn.BatchNorm3d over all shards."""


KINDS: dict[type[nn.Module], type[Shared]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}

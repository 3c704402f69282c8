"""A user's own loss function as a local objective. It does not know which block it judges, nor how that is trained."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from types import CellType

import torch
from torch import Tensor, nn

from ffpipe.learn.description import described
from ffpipe.learn.objectives import Learned, Objective
from ffpipe.learn.spec import PLAIN, RowLayout
from ffpipe.system.errors import UserError

LossFunction = Callable[..., Tensor | tuple[Tensor, Tensor | float]]


class FunctionObjective(Objective):
    """Loss of a function `loss(h, labels)` or `loss(h, labels, layout)`, written as torch users write it.

    It returns the mean over the minibatch, a 0-dimensional tensor, or a tuple of it and the number of wrong examples.
    Without that number errors are NaN, for unknown. A function that is a module is trained with the block.
    """

    def __init__(
        self,
        loss: LossFunction,
        *,
        roles: tuple[str, ...] = PLAIN,
        score: Callable[[Tensor], Tensor | None] | None = None,
    ) -> None:
        """roles: the rows that it learns from. score: what a row says of the answer, as `Objective.score`; None:
        nothing. The layout is given as a third argument that has no default, or that is named layout. Raises UserError
        for a function that cannot be called so."""
        super().__init__()
        self.roles, self.name = roles, _name(loss)
        self.arguments = _arguments(loss, self.name)
        for what, given in (("loss", loss), ("score", score)):
            held = _held(given)
            # A module is trained, so its own method may hold it.
            if held is not None and not (isinstance(loss, nn.Module) and held in set(loss.modules())):
                raise UserError(
                    f"{what} function {_name(given)} holds {described(held)} with weights, which would not be trained: "
                    "give a module or an ffpipe.Objective that has it, or freeze it"
                )
        self.function, self.scorer = loss, score

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        """Judge h (layout.learning_rows, ...), as it comes, also under autocast.

        Sums over layout.batch, the loss in float32 at least. Raises UserError for what is not a 0-dimensional floating
        tensor, or does not depend on h where h is trained.
        """
        came = self.function(*(h, labels, layout)[: self.arguments])
        loss, errors = came if isinstance(came, tuple) and len(came) == 2 else (came, math.nan)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            raise UserError(
                f"loss function {self.name} returned {described(loss)}: return the mean loss over the minibatch, "
                "a 0-dimensional floating tensor, as loss.mean() is"
            )
        # In steps without learning and in trials nothing requires a gradient.
        if torch.is_grad_enabled() and h.requires_grad and not loss.requires_grad:
            raise UserError(
                f"loss function {self.name} returned {described(loss)} that does not require grad: compute it from h "
                "by torch, without detach, item or no_grad"
            )
        if not isinstance(errors, (Tensor, int, float)) or (isinstance(errors, Tensor) and errors.dim()):
            raise UserError(
                f"loss function {self.name} returned {described(errors)} for errors: return how many examples are "
                "wrong, a number or a 0-dimensional tensor"
            )
        # On the loss's device, where the two are stacked for the log (metrics.py).
        counted = errors.detach() if isinstance(errors, Tensor) else torch.full((), errors, device=loss.device)
        return Learned(loss.to(torch.promote_types(loss.dtype, torch.float32)) * layout.batch, counted)

    @property
    def is_silent(self) -> bool:
        """True where there is no score function."""
        return self.scorer is None

    def score(self, h: Tensor) -> Tensor | None:
        """Give what the score function says of h (n, ...)."""
        return None if self.scorer is None else self.scorer(h)


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _held(given: object) -> nn.Module | nn.Parameter | None:
    """Find what has weights to train in the closure of a function, in what a method is of, or among the arguments of a
    partial; None where there is no such, or it is a module, which is trained itself."""
    if isinstance(given, nn.Module):
        return None
    if isinstance(given, functools.partial):
        values = [*given.args, *given.keywords.values(), _held(given.func)]
    else:
        cells = filter(_is_filled, getattr(given, "__closure__", None) or ())
        values = [getattr(given, "__self__", None), *(cell.cell_contents for cell in cells)]
    for value in values:
        if isinstance(value, nn.Module) and any(parameter.requires_grad for parameter in value.parameters()):
            return value
        if isinstance(value, nn.Parameter) and value.requires_grad:
            return value
    return None


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # of a name that is bound later
        return False
    return True


def _arguments(loss: LossFunction, name: str) -> int:
    """Count the arguments that a loss function is called with, 2 or 3. Raises UserError where it takes neither."""
    if not callable(loss):
        raise UserError(f"loss function is {described(loss)}: give a function of (h, labels) or (h, labels, layout)")
    try:
        parameters = list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values())
    except ValueError:  # functions written in C have no signature
        return 2
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    endless = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    # A third argument with a default is as a rule an option, such as the class weights of torch's cross_entropy.
    count = 3 if len(needed) == 3 or [p.name for p in places[2:3]] == ["layout"] else 2
    if len(needed) > count or set(needed) - set(places) or (len(places) < count and not endless):
        given = ", ".join(map(str, parameters))
        raise UserError(f"loss function {name} takes ({given}): make it take (h, labels) or (h, labels, layout)")
    return count

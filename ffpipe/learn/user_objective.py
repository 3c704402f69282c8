"""A user's own loss function as a local objective. It does not know which block it judges, nor how that is trained."""

from __future__ import annotations

import functools
import inspect
import math
import random
from collections.abc import Callable, Iterator, Sequence
from types import CellType, CodeType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from ffpipe.learn.description import described
from ffpipe.learn.objectives import Learned, Objective
from ffpipe.learn.own_modules import GENERATORS, UNSAVED
from ffpipe.learn.spec import PLAIN, RowLayout
from ffpipe.system.errors import UserError

# Generators that are set at each step (local.seeded).
SHARED = (torch.default_generator, *(getattr(draw, "__self__", None) for draw in (random.random, np.random.random)))
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
            if isinstance(held, GENERATORS):
                raise UserError(f"{what} function {_name(given)} holds a generator, {UNSAVED}")
            # A module is trained, so its own method may hold it: that is copied with it, which a closure is not.
            trained = isinstance(loss, nn.Module) and not inspect.isfunction(given) and held in set(loss.modules())
            if held is not None and not trained:
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


def _held(given: object) -> object:
    """Find what has weights to train, or is a generator that no other code has, among all that a function reaches
    beside its arguments and globals. None where there is no such, or the function is a module, which is trained
    itself."""
    waiting, seen = [] if isinstance(given, nn.Module) else [given], dict[object, object]()
    while waiting:
        value = waiting.pop()
        # A method is another object each time that it is named.
        key = (id(value.__func__), id(value.__self__)) if inspect.ismethod(value) else id(value)
        if key in seen:
            continue
        seen[key] = value  # which stays, so that no other object gets its id
        if isinstance(value, nn.Module) and any(parameter.requires_grad for parameter in value.parameters()):
            return value
        if isinstance(value, Tensor) and value.requires_grad:
            return value
        if isinstance(value, GENERATORS) and not any(value is each for each in SHARED):
            return value
        waiting += _reached(value)
    return None


def _reached(value: object) -> list[object]:
    """Return what a function or a container leads to: a function to its closure and defaults, to the object that it is
    a method of, and to what its code names of all these."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    function = value.__func__ if inspect.ismethod(value) else value
    if not inspect.isfunction(function):
        # A method written in C, as of a tensor or a generator.
        owners = [getattr(value, "__self__", None)] if inspect.isroutine(value) else []
        return [*owners, *_attributes(value, ["__call__"])]
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    sees, names = [getattr(value, "__self__", None), *defaults, *cells], list(_names(function.__code__))
    return [*sees, *(each for owner in sees for each in _attributes(owner, names))]


def _attributes(owner: object, names: Sequence[str]) -> list[object]:
    """Return attributes of an object, where it has them. None of a class or of a module of Python's, which are as
    globals are; a module of torch's is judged as a whole."""
    if isinstance(owner, (nn.Module, ModuleType, type)):
        return []
    found = [inspect.getattr_static(owner, name, None) for name in names]
    slots = zip(names, found, strict=True)
    found = [getattr(owner, name, None) if inspect.ismemberdescriptor(each) else each for name, each in slots]
    return [MethodType(each, owner) if inspect.isfunction(each) else each for each in found]


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names of attributes and globals in code, and in functions within it."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


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

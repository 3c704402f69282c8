"""The fields of an optimiser, and what torch says of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ffpipe.config.limits import LARGEST_FLOAT
from ffpipe.system.errors import UserError, nearest, refusing

# Optimisers of our own (learn/optim.py), and the class of torch.optim whose options each takes.
OWN_FORMS = {"KerasAdam": "Adam"}


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The rule by which a gradient becomes an update. One instance a layer."""

    kind: Annotated[
        str,
        Meta(
            description="'averaging' (Hinton's exponential averaging), the name of a torch.optim class, or KerasAdam, "
            "which adds epsilon before the bias is corrected"
        ),
    ] = "averaging"
    learning_rate: Annotated[float, Meta(gt=0, description="before the factors of the schedule")] = 0.01
    averaging: Annotated[
        float, Meta(ge=0, lt=1, description="share of the old average kept at each step (kind 'averaging')")
    ] = 0.9
    weight_decay: Annotated[
        float, Meta(ge=0, description="of parameters with two dimensions or more: weights, not vectors such as biases")
    ] = 0.0
    options: Annotated[
        dict[str, float | bool | tuple[float, ...]],
        Meta(description="further keyword arguments of the torch.optim class, as NAME=VALUE or betas=0.9,0.99"),
    ] = field(default_factory=dict)


def torch_optimizers() -> list[str]:
    """List what `kind` of an optimiser may be beside "averaging"."""
    import torch  # a second, which `ffpipe --help` does not need

    # These need a closure, sparse gradients, or (Muon) refuse the biases.
    unsupported = {torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam, torch.optim.Muon}
    return sorted(
        n
        for n, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and c not in unsupported
    )


def check_optimizer(name: str, optimizer: Optimizer) -> None:
    """Hold an optimiser against its fields and against torch. name: what messages call it. Raises UserError."""
    _check_fields(name, optimizer)
    if optimizer.kind == "averaging":
        if optimizer.options:
            instead = f"give --{name}.options and nothing after it" if name.startswith("training.") else "give none"
            raise UserError(f"{name}.options are for torch.optim classes, 'averaging' takes none: {instead}")
        return
    for option, instead in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if option in optimizer.options:
            raise UserError(f"{name}.options has {option!r}: give it as {name}.{instead}")
    import torch

    from ffpipe.system.optimizers import uncompiled

    classes = torch_optimizers()
    if optimizer.kind not in (*classes, *OWN_FORMS):
        known = ["averaging", *OWN_FORMS, *classes]
        raise UserError(f"{name}.kind is {optimizer.kind!r}; {nearest(optimizer.kind, known)}")
    found = getattr(torch.optim, OWN_FORMS.get(optimizer.kind, optimizer.kind))
    taken = [option for option in inspect.signature(found).parameters if option not in ("params", "lr", "weight_decay")]
    for option in optimizer.options:
        if option not in taken:
            raise UserError(
                f"{name}.options has {option!r}, which {optimizer.kind} does not have; its options: {', '.join(taken)}"
            )
    cls: Any = uncompiled(found)
    # Tried on a small matrix, since torch checks some options when it is made and others at its first step.
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    decay = {"weight_decay": optimizer.weight_decay} if optimizer.weight_decay else {}  # some know none
    # torch's optimisers have as many ways to refuse an option as there are of them.
    where = "" if optimizer.kind in OWN_FORMS else "torch.optim."
    with refusing(f"{name} does not fit {where}{optimizer.kind}", Exception):
        cls([weight], lr=optimizer.learning_rate, **decay, **optimizer.options).step()


def _check_fields(name: str, optimizer: Optimizer) -> None:
    """Hold an optimiser, which may come from Python, against types and ranges of its fields."""
    if not isinstance(optimizer, Optimizer):
        example = "ffpipe.Optimizer(kind='Adam', learning_rate=0.001)"
        raise UserError(f"{name} is of type {type(optimizer).__name__}: give an ffpipe.Optimizer, as {example}")
    values = {own.name: _as_float(getattr(optimizer, own.name)) for own in fields(optimizer)}
    if isinstance(optimizer.options, Mapping):
        values["options"] = {option: _as_float(value) for option, value in optimizer.options.items()}
    try:
        msgspec.convert(values, Optimizer)
    except msgspec.ValidationError as error:
        said, _, place = str(error).replace("`", "").partition(" - at ")
        own = place.rpartition("$.")[2].replace("[...]", "")
        raise UserError(f"{name}.{own}: {said[:1].lower()}{said[1:]}") from None
    # Not "abs(value) > LARGEST_FLOAT", which is false for NaN.
    for own, value in (values | values["options"]).items():
        if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
            raise UserError(f"{name} has {own} {value}: give a finite number, at most {LARGEST_FLOAT:.3g}")


def _as_float(value: Any) -> Any:
    """Give a plain float in place of one of NumPy's, which is one too."""
    return float(value) if isinstance(value, float) else value

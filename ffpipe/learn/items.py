"""Blocks made from items: what a user's function, a config's tables or its widths give for each block.

    item: a Local, a Block, a Dense, or a function that makes one of these where the block lives

Weights come from the seed and the block's index. A block that is made again begins anew: modules of items are copied.
On META nothing takes memory, where the user's code lets it.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ffpipe.config.schema import BlockConfig, Training
from ffpipe.learn.batchnorm import share
from ffpipe.learn.block import Block
from ffpipe.learn.description import described, instead_of
from ffpipe.learn.local import LocalBlock, seeded
from ffpipe.learn.local_item import BlockItem, Dense, Local, as_item, make_objective, of_config
from ffpipe.learn.local_shards import ShardedLocal
from ffpipe.learn.model_options import bound
from ffpipe.learn.objectives import Objective
from ffpipe.learn.outline import Outline
from ffpipe.learn.own_modules import refuse_module
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.state_tensors import convert, give_own_memory, refuse_changed, refuse_complex, refuse_views
from ffpipe.learn.user_model import ModelCode, describe_error, load, of_users, searching
from ffpipe.system.errors import UserError

META = torch.device("meta")
CPU = torch.device("cpu")
# Rows on which shapes are worked out: of two, no size of a network is mistaken for their number as of one.
TRIED = 2
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def items_of(
    training: Training, code: ModelCode | None, function: Callable[..., Any] | None, device: torch.device
) -> list[BlockItem]:
    """Give the items of a network. code, function: of the user's model, if there is one. Raises UserError."""
    if training.model or function is not None:
        if function is not None:
            code = None
        model = function if code is None else load(code)
        name = training.model or getattr(model, "__qualname__", "the model")
        with nullcontext() if code is None else searching(code):  # the function may import what stands beside it
            return made_on(lambda: call(model, training.model_options, name), device, training.seed, "model")
    if training.blocks:
        return [of_config(block) for block in training.blocks]
    if training.contrasts:
        return [Dense(width) for width in training.dims[1:]]
    return [
        of_config(BlockConfig(kind="dense", options={"width": width, "dropout": training.dropout}))
        for width in training.dims[1:]
    ]


def call(function: Any, options: Mapping[str, Any], name: str) -> list[Any]:
    """Call a model function, which messages call `name`, and return its items; a torch.nn.Sequential is taken apart.

    options: keyword arguments, as `bound` takes them. Raises UserError: what is not a function, options that do not
    fit its signature, an exception in it, a result that is not a list of items.
    """
    if not callable(function) or isinstance(function, nn.Module):
        raise UserError(f"{name} is of type {type(function).__name__} and not a function: give a function")
    arguments = bound(function, options, name, how="--training.model-options ")
    with of_users(f"{name} failed", getattr(function, "__module__", None) or ""):
        made = function(**arguments)
    # One with a forward of its own is more than its parts in a row.
    if isinstance(made, nn.Sequential) and type(made).forward is nn.Sequential.forward:
        made = list(made)
    if not isinstance(made, (list, tuple)) or not made:
        what = "an empty list" if isinstance(made, (list, tuple)) else f"a value of type {type(made).__name__}"
        raise UserError(f"{name} returned {what}: return a list of blocks, torch modules or callables that make one")
    return [as_item(item, f"item {index} of {name}") for index, item in enumerate(made)]


def resolved(item: BlockItem, index: int, inputs: RowSpec, training: Training) -> BlockItem:
    """Give the item itself, or what it makes where it is a function."""
    if isinstance(item, (Local, Block, Dense)):
        return item
    with seeded(CPU, training.seed, "weights", index):
        return as_item(_called(item, inputs, f"item {index}"), f"what item {index} makes")


def body_of(item: Local, outline: Outline, training: Training, device: torch.device) -> nn.Module:
    """Give the body of a block: the item's own module, or what its function makes.

    Raises UserError where that gives a module that was there before: it could be in other blocks too, and has learned
    where the block is made again.
    """
    if isinstance(item.body, nn.Module):
        return item.body
    make = item.body

    def made() -> nn.Module:
        body = made_on(
            lambda: _called(make, outline.inputs, str(outline)), device, training.seed, "weights", outline.index
        )
        if not isinstance(body, nn.Module):
            right = instead_of(body, "a torch module or a function that makes one")
            raise UserError(f"the body of {outline} is {described(body)}: {right}")
        refuse_module(body, str(outline))
        return body

    body = made()
    # Whoever makes a block has worked the network out on META before, where a second body takes no memory.
    if device == META:
        again = made()
        if {id(each) for each in again.parameters()} & {id(each) for each in body.parameters()}:
            raise UserError(
                f"the function that makes the body of {outline} gives the same parameters again: make them in the "
                "function, or give the module in place of the function"
            )
    return body


def local_block(
    item: Local, body: nn.Module, outline: Outline, classes: int, training: Training, device: torch.device
) -> LocalBlock:
    """Join a body and the objective of its item. Raises UserError where the objective does not fit."""
    failing, here = f"the objective of {outline} cannot be made", device if device == META else nullcontext()
    # Drawn for a purpose of its own: a head begins the same, however many numbers the body has drawn.
    with _naming(str(outline), failing), seeded(CPU, training.seed, "objective", outline.index), here:
        objective = make_objective(item, training, outline.hidden, classes)
    _refuse_untrained(objective, body, str(outline))
    # Copied together and made ready together, so that a tensor of both stays one.
    given = nn.ModuleDict()
    if isinstance(item.body, nn.Module):
        given["body"] = body
    if isinstance(item.objective, nn.Module) or isinstance(item.score, nn.Module):
        given["objective"] = objective
    parts = {"body": body, "objective": objective} | dict(fresh(given, device).items())
    to: dict[str, Any] = {"dtype": PRECISIONS[training.precision].weights, "device": device}
    if training.memory_format == "channels-last":
        to["memory_format"] = torch.channels_last
    prepared(nn.ModuleDict(parts), str(outline), **to)
    # Before the block looks for statistics over a minibatch, of which these do not keep it from being cut.
    for name, part in parts.items() if training.shards > 1 else ():
        share(part, name)
    training = replace(
        training, optimizer=item.optimizer or training.optimizer, hand_on=item.hand_on or training.hand_on
    )
    edges = (outline.index, outline.inputs, outline.outputs)
    kind = ShardedLocal if training.shards > 1 else LocalBlock
    return kind(*edges, parts["body"], cast(Objective, parts["objective"]), training, item.keep, item.use)


def _refuse_untrained(objective: Objective, body: nn.Module, where: str) -> None:
    """Raise UserError for a score that is a module with weights of its own, which no loss would reach."""
    scorer, loss = getattr(objective, "scorer", None), getattr(objective, "function", None)
    trained = {id(p) for part in (body, loss) if isinstance(part, nn.Module) for p in part.parameters()}
    if isinstance(scorer, nn.Module) and any(p.requires_grad and id(p) not in trained for p in scorer.parameters()):
        raise UserError(
            f"the score of {where} has weights that neither its body nor its loss has, which would not be trained: "
            "give an ffpipe.Objective that has them, or freeze them"
        )


def shape_of(
    body: Callable[[torch.device], nn.Module], inputs: Sequence[RowSpec], training: Training, where: str
) -> tuple[RowSpec, torch.dtype]:
    """Return the spec of a row that a body makes, and its dtype without autocast: seen on META, or where it does not
    run there on a few rows of zeros.

    body: makes it on a device, or gives a module that is not to be changed. Raises UserError for a body that fails,
    that writes into the rows that it gets, or that makes something else than rows.
    """
    weights, products = PRECISIONS[training.precision]

    def tried() -> Any:
        # META, or the CPU where code looks at numbers: as `made_on` has set it.
        device = torch.get_default_device()
        rows = [
            torch.zeros(TRIED, *each.shape, dtype=weights if each.dtype.is_floating_point else each.dtype)
            for each in inputs
        ]
        with torch.no_grad(), _naming(where, f"{where} cannot take rows of {', '.join(map(str, inputs))}"):
            made = prepared(fresh(body(device), device), where, dtype=weights)(*rows)
        refuse_changed(rows, [0] * len(rows), where)
        return made

    found = made_on(tried, META, training.seed, "shapes")
    if not isinstance(found, Tensor):
        what = f"{len(found)} values" if isinstance(found, (tuple, list)) else type(found).__name__
        raise UserError(f"{where} gives {what}: its body must return one tensor, of as many rows as it gets")
    if found.is_nested or found.layout != torch.strided:
        what = "nested" if found.is_nested else "sparse"
        raise UserError(f"{where} gives a {what} tensor: its body must return dense rows of one shape")
    if found.dim() == 0 or len(found) != TRIED:
        raise UserError(f"{where} gives a tensor of shape {tuple(found.shape)} for {TRIED} rows: keep the rows first")
    return RowSpec(tuple(found.shape[1:]), products if found.dtype.is_floating_point else found.dtype), found.dtype


def fresh(module: M, device: torch.device) -> M:
    """Copy a module; on META its weights have shapes and no memory."""
    # deepcopy takes them for copies that it has made: weights are not in memory twice, not even for a moment.
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()) if device == META else ():
        bare = torch.empty_like(tensor, device=META)
        memo[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
    return copy.deepcopy(module, memo)


def made_on(make: Callable[[], T], device: torch.device, seed: int, purpose: str, *index: int) -> T:
    """Make what draws from shared generators; on META without memory, or where that fails as on the CPU."""
    if device == META:
        with suppress(UserError), seeded(CPU, seed, purpose, *index), META:
            return make()
    with seeded(CPU, seed, purpose, *index):
        return make()


def prepared(module: M, where: str, **to: Any) -> M:
    """Make a module, which is changed, ready to learn: in training mode, as torch's modules begin, and of tensors that
    can be kept, where and in which format `to` says, as `Module.to`. Raises UserError, which names it as `where`."""
    refuse_complex(module, where)
    # Before each tensor has memory of its own, in which no view could be told any more.
    refuse_views(module, where)
    give_own_memory(module)
    convert(module, **to)
    module.train()  # a user's own may return nothing
    return module


def _called(function: Callable[..., Any], inputs: RowSpec, where: str) -> Any:
    """Call a function that makes a block or a body; with `inputs` where it has a parameter of that name."""
    with _naming(where, f"{where} cannot be made"):
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # of a class or function that is written in C
            return function()
        # An argument that a partial has by name is among its parameters still.
        given = isinstance(function, functools.partial) and "inputs" in function.keywords
        if "inputs" not in parameters or given:
            return function()
        by_position = parameters["inputs"].kind is inspect.Parameter.POSITIONAL_ONLY
        return function(inputs) if by_position else function(inputs=inputs)


@contextmanager
def _naming(where: str, failing: str) -> Iterator[None]:
    """Raise UserError that names the block for what goes wrong. failing: begins the line where it is an exception of
    torch or of the user's code."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code has as many ways to fail as there are, sys.exit among them
        raise UserError(f"{failing}: {describe_error(error)}") from None

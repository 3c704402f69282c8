"""The network of a run before it exists: what each block takes and makes, and how a stage makes its own alone.

    config, data ──► items ──► outlines (on the meta device: shapes, no memory) ──► a block, where it lives

It is plain data that any process gets; the weights of a block come from the seed and its index, so that it does not
matter who makes it, nor what else is made there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ffpipe.config.rules import check_optimizer
from ffpipe.config.schema import BlockConfig, Optimizer, Training
from ffpipe.learn.block import Block
from ffpipe.learn.chained import Chained
from ffpipe.learn.dense import FFDense
from ffpipe.learn.kinds import FF_DENSE
from ffpipe.learn.local import LocalBlock, Settings, seeded
from ffpipe.learn.local_item import Local, as_item, make_objective, of_config
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.rates import Rates
from ffpipe.learn.spec import EXAMPLES, NEUTRAL, PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.learn.user_model import ModelCode, call, describe_error, load
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import Input
from ffpipe.storage.tensorfile import DTYPES
from ffpipe.system.errors import UserError

META = torch.device("meta")
CPU = torch.device("cpu")
# Rows on which shapes are worked out: of two, no size of a network is mistaken for their number as of one.
TRIED = 2
M = TypeVar("M", bound=nn.Module)
# What the yardstick learns with where the config has Forward-Forward's own optimiser: Adam's defaults.
YARDSTICK = Optimizer(kind="Adam", learning_rate=0.001)


@dataclass(frozen=True)
class Outline:
    """What one block is to others, without its weights.

    hidden: rows of its body, on which its objective is; outputs: rows that it hands on.
    """

    index: int
    name: str
    inputs: RowSpec
    hidden: RowSpec
    outputs: RowSpec
    rates: Rates
    keep: str = ""
    use: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A network that can be made block by block.

    takes: what the manifest of a snapshot tells of the input. inputs, labels: one row of the first block's input, and
    the label of one example. code: where a user's function comes from; function: the function itself, where it was
    given as an object.
    """

    training: Training
    takes: Input
    inputs: RowSpec
    labels: RowSpec
    steps_per_epoch: int
    code: ModelCode | None = None
    function: Callable[..., Any] | None = None
    outlines: tuple[Outline, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.outlines)

    def __getstate__(self) -> dict[str, Any]:
        """Without the items, which may hold weights: who gets the blueprint makes its own."""
        return {name: value for name, value in vars(self).items() if name not in ("_items", "_shells")}

    @property
    def layout(self) -> RowLayout:
        """The rows of a minibatch."""
        training = self.training
        passing = (NEUTRAL,) if self.has_head and training.labelled else ()
        return RowLayout(training.batch_size, PAIRS if training.contrasts else PLAIN, passing)

    @property
    def has_head(self) -> bool:
        """Whether a linear read-out is trained on the outputs of blocks."""
        return self.training.head and self.training.method != "backprop"

    @property
    def taps(self) -> range:
        """Blocks whose outputs that read-out sees."""
        return range(self.training.head_from, len(self)) if self.has_head else range(0)

    @property
    def is_closed_form(self) -> bool:
        """Whether all blocks are dense layers in closed form, whose large tensors are those of a workspace."""
        return all(outline.name == FF_DENSE for outline in self.outlines)

    @property
    def edges(self) -> tuple[RowSpec, ...]:
        """One row before each block, and after the last."""
        return (self.inputs, *(outline.outputs for outline in self.outlines))

    @property
    def rows_of_example(self) -> int:
        """Rows that an evaluation makes of one example: it is read under every label, and by the read-out."""
        if not self.training.contrasts:
            return 1
        return self.takes.classes * self.training.labelled + self.has_head

    @property
    def kept(self) -> dict[str, int]:
        """The block that makes each output that is kept, by its name."""
        return {outline.keep: outline.index for outline in self.outlines if outline.keep}

    @property
    def head_rates(self) -> Rates:
        """Of the linear read-out."""
        return Rates(self.training.schedule, self.steps_per_epoch, self.training.epochs)

    def make(self, index: int, workspace: Workspace) -> Block:
        """Make a block with its first weights on the device of the workspace. Raises UserError."""
        items = self._shells if workspace.device == META else self._items
        return _made(items[index], self, self.outlines[index], workspace)

    @cached_property
    def _items(self) -> list[Any]:
        return _items_of(self, CPU)

    @cached_property
    def _shells(self) -> list[Any]:
        """The items, made without memory."""
        return _items_of(self, META)


def make_blueprint(
    training: Training,
    takes: Input,
    inputs: RowSpec,
    labels: RowSpec,
    steps_per_epoch: int,
    code: ModelCode | None = None,
    function: Callable[..., Any] | None = None,
) -> Blueprint:
    """Work out every edge of the network that a config describes, in one place and without its weights.

    Raises UserError: items that are none, shapes that do not meet, objectives that do not fit or learn from other rows
    than those of the config, names of kept outputs that are not there, a parameter that two blocks share.
    """
    bare = Blueprint(training, takes, inputs, labels, steps_per_epoch, code, function)
    items = _items_of(bare, META)
    outlines: list[Outline] = []
    kept: dict[str, RowSpec] = {}
    owners: dict[int, int] = {}
    for index, item in enumerate(items):
        _refuse_shared(item, index, owners)
        outline, block = _outlined(item, replace(bare, outlines=tuple(outlines)), index, inputs, kept)
        _refuse_other_rows(block, outline, training)
        _refuse_unsaved(block, outline)
        outlines.append(outline)
        inputs = outline.outputs
        if outline.keep:
            if outline.keep in kept:
                raise UserError(f"block {index} keeps {outline.keep!r}, which an earlier one keeps: give another name")
            kept[outline.keep] = outline.outputs
    made = replace(bare, outlines=tuple(outlines))
    _refuse_read_outs(made)
    return made


def _items_of(blueprint: Blueprint, device: torch.device) -> list[Any]:
    """The items of a network; on META modules have shapes and no memory, where the user's code lets them."""
    training = blueprint.training
    if training.method == "backprop":
        forward = replace(training, method="forward-forward", negatives="none")
        return [_end_to_end(_items_of(replace(blueprint, training=forward), device), blueprint)]
    if training.model or blueprint.function is not None:
        function = blueprint.function
        if function is None:
            assert blueprint.code is not None
            function = load(blueprint.code)
        name = training.model or getattr(function, "__qualname__", "the model")

        def called(where: torch.device) -> list[Any]:
            with seeded(CPU, training.seed, "model"), where if where != CPU else nullcontext():
                return call(function, training.model_options, name, kinds=(Local,))

        try:
            made = called(device)
        except UserError:
            made = called(CPU)  # which fails in the same way where the device is not why
        return [as_item(item, f"item {index} of {name}") for index, item in enumerate(made)]
    if training.blocks:
        return [of_config(block) for block in training.blocks]
    if training.contrasts:
        return list(training.dims[1:])
    return [
        of_config(BlockConfig(kind="dense", options={"width": width, "dropout": training.dropout}))
        for width in training.dims[1:]
    ]


def _outlined(
    item: Any, blueprint: Blueprint, index: int, inputs: RowSpec, kept: Mapping[str, RowSpec]
) -> tuple[Outline, Block]:
    """The outline of a block and the block itself, on META where it can be."""
    training = blueprint.training
    rates = Rates(training.schedule, blueprint.steps_per_epoch, training.epochs)
    workspace = Workspace(META)
    outline = Outline(index, FF_DENSE, inputs, inputs, inputs, rates)
    if callable(item) and not isinstance(item, (Local, Block)):
        item = as_item(_called(item, inputs, f"item {index}"), f"what item {index} makes")
    if isinstance(item, Local):
        first, last = item.epochs
        outline = replace(
            outline,
            name=item.title,
            keep=item.keep,
            use=tuple(item.use),
            rates=replace(rates, schedule=item.schedule or training.schedule, first=first, last=last),
        )
        if item.optimizer is not None:
            check_optimizer(f"block {index} ({item.title}): optimizer", item.optimizer)
        if missing := [name for name in item.use if name not in kept]:
            raise UserError(
                f"block {index} ({item.title}) uses {missing[0]!r}, which no block before it keeps; "
                f"there are: {', '.join(kept) or 'none'}"
            )
        if not 0 <= first < (last or training.epochs) <= training.epochs:
            raise UserError(
                f"block {index} ({item.title}) learns in epochs {first} to {last or training.epochs}, but the run has "
                f"{training.epochs}: give a first epoch below the last, within 0 to {training.epochs}"
            )
        body = _body(item, inputs, f"block {index} ({item.title})", blueprint, index, META)
        hidden = _shape_of(
            body, [inputs, *(kept[name] for name in item.use)], training, f"block {index} ({item.title})"
        )
        outline = replace(outline, hidden=hidden, outputs=hidden)
        local = _local_block(item, _shell(body), blueprint, outline, META)
        block: Block = local
        outline = replace(outline, outputs=_handed_on(local, hidden, training))
    elif isinstance(item, Block):
        block, outline = item, replace(outline, name=type(item).__name__, keep=item.keep, use=item.use)
        if item.inputs != inputs:
            raise UserError(f"block {index} ({outline.name}) takes rows of {item.inputs}, but it gets {inputs}")
        outline = replace(outline, hidden=item.outputs, outputs=item.outputs)
    else:
        block = FFDense(index, inputs.size, item, training, workspace)
        outline = replace(outline, hidden=block.outputs, outputs=block.outputs)
    return outline, block


def _made(item: Any, blueprint: Blueprint, outline: Outline, workspace: Workspace) -> Block:
    index, inputs, device = outline.index, outline.inputs, workspace.device
    if callable(item) and not isinstance(item, (Local, Block)):
        with seeded(CPU, blueprint.training.seed, "weights", index):
            item = as_item(_called(item, inputs, f"item {index}"), f"what item {index} makes")
    if isinstance(item, Block):
        return _shell(item) if device == META else copy.deepcopy(item).to(device)
    if isinstance(item, Local):
        body = _body(item, inputs, f"block {index} ({outline.name})", blueprint, index, device)
        if isinstance(item.body, nn.Module):
            # A block may be made again from the same items, and must not go on with the weights of the first.
            body = _shell(body) if device == META else copy.deepcopy(body)
        return _local_block(item, body, blueprint, outline, device)
    return FFDense(index, inputs.size, item, blueprint.training, workspace)


def _body(
    item: Local, inputs: RowSpec, where: str, blueprint: Blueprint, index: int, device: torch.device
) -> nn.Module:
    if isinstance(item.body, nn.Module):
        return item.body

    def made(there: torch.device) -> Any:
        with seeded(CPU, blueprint.training.seed, "weights", index), there if there == META else nullcontext():
            return _called(item.body, inputs, where)

    try:
        body = made(device)
    except UserError:
        if device != META:
            raise
        body = made(CPU)  # which fails in the same way where the device is not why
    if not isinstance(body, nn.Module):
        raise UserError(
            f"the body of {where} is {type(body).__name__}: give a torch module or a function that makes one"
        )
    return body


def _called(function: Callable[..., Any], inputs: RowSpec, where: str) -> Any:
    """Call a function that makes a block or a body; with `inputs` where it has a parameter of that name."""
    code = getattr(function, "__code__", None)
    names = () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    try:
        return function(inputs) if "inputs" in names else function()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # a user's code has as many ways to fail as there are
        raise UserError(f"{where} cannot be made: {describe_error(error)}") from None


def _local_block(
    item: Local, body: nn.Module, blueprint: Blueprint, outline: Outline, device: torch.device
) -> LocalBlock:
    training = blueprint.training
    precision = PRECISIONS[training.precision]
    with seeded(CPU, training.seed, "objective", outline.index), device if device == META else nullcontext():
        try:
            objective = make_objective(item, training, outline.hidden, blueprint.takes.classes)
        except UserError as error:
            raise UserError(f"block {outline.index} ({outline.name}): {error}") from None
        except Exception as error:  # torch refuses a size or a type of an option in as many ways as there are layers
            where = f"block {outline.index} ({outline.name})"
            raise UserError(f"the objective of {where} cannot be made: {describe_error(error)}") from None
    if isinstance(item.objective, nn.Module):  # as its body: each block that is made begins anew
        objective = _shell(objective) if device == META else copy.deepcopy(objective)
    for part in (body, objective):
        part.to(dtype=precision.weights, device=device)
        if training.memory_format == "channels-last":
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no hint for it
    settings = Settings(
        training.seed,
        precision,
        item.optimizer or training.optimizer,
        training.threads,
        item.hand_on or training.hand_on,
        training.memory_format == "channels-last",
    )
    return LocalBlock(
        outline.index, outline.inputs, outline.outputs, body, objective, settings, outline.keep, outline.use
    )


def _shape_of(body: nn.Module, inputs: Sequence[RowSpec], training: Training, where: str) -> RowSpec:
    """One row of what a body makes: seen on META, or where the body does not run there on a few rows of zeros."""
    weights = PRECISIONS[training.precision].weights
    for device in (META, CPU):
        rows = [
            torch.zeros(
                TRIED, *spec.shape, dtype=weights if spec.dtype.is_floating_point else spec.dtype, device=device
            )
            for spec in inputs
        ]
        try:
            with torch.no_grad(), seeded(CPU, training.seed, "shapes"):
                tried = _shell(body) if device == META else copy.deepcopy(body)
                if any(parameter.device == META for parameter in tried.parameters()):
                    tried.to_empty(device=device)
                made = tried.to(dtype=weights).train()(*rows)
            break
        except Exception as error:  # as many as a user's code has
            failed = error
    else:
        given = ", ".join(map(str, inputs))
        raise UserError(f"{where} cannot take rows of {given}: {describe_error(failed)}")
    if not isinstance(made, Tensor):
        what = f"{len(made)} values" if isinstance(made, (tuple, list)) else type(made).__name__
        raise UserError(f"{where} gives {what}: its body must return one tensor, of as many rows as it gets")
    if made.dim() == 0 or len(made) != TRIED:
        raise UserError(f"{where} gives a tensor of shape {tuple(made.shape)} for {TRIED} rows: keep the rows first")
    floating = made.dtype.is_floating_point
    return RowSpec(tuple(made.shape[1:]), PRECISIONS[training.precision].products if floating else made.dtype)


def _shell(body: M) -> M:
    """A copy of a module whose weights have shapes and no memory."""
    tensors = [*body.named_parameters(), *body.named_buffers()]
    memo: dict[int, Any] = {}
    for _, tensor in tensors:
        bare = torch.empty_like(tensor, device=META)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if is_parameter else bare
    return copy.deepcopy(body, memo)


def _handed_on(block: LocalBlock, hidden: RowSpec, training: Training) -> RowSpec:
    weights = PRECISIONS[training.precision].weights
    with torch.no_grad():
        made = block.objective.hand_on(torch.zeros(TRIED, *hidden.shape, dtype=weights, device=META))
    return replace(hidden, shape=tuple(made.shape[1:]))


def _end_to_end(items: Sequence[Any], blueprint: Blueprint) -> Local:
    """All blocks as the body of one, which learns by the last one's class head: the yardstick."""
    # Only the last block is read.
    training = replace(blueprint.training, method="forward-forward", negatives="none", head=False, readout="last")
    yardstick = YARDSTICK if blueprint.training.negatives != "none" else training.optimizer

    def body() -> nn.Module:
        parts = make_blueprint(
            training, blueprint.takes, blueprint.inputs, blueprint.labels, blueprint.steps_per_epoch,
            blueprint.code, blueprint.function,
        )  # fmt: skip
        here = Workspace(torch.get_default_device())
        blocks = [parts.make(index, here) for index in range(len(parts))]
        return Chained(blocks, checkpointing=training.checkpointing)

    last = items[-1]
    objective = last.objective if isinstance(last, Local) else None
    options = last.options if isinstance(last, Local) else {}
    return Local(body, objective, options, yardstick, name="end-to-end")


def _refuse_shared(item: Any, index: int, owners: dict[int, int]) -> None:
    """Raises UserError for a parameter that an earlier block has. owners: by id, the block of each so far."""
    parts = [item, *([item.body, item.objective] if isinstance(item, Local) else [])]
    for part in parts:
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            if owners.setdefault(id(parameter), index) != index:
                raise UserError(
                    f"block {index} shares the parameter {name!r} with block {owners[id(parameter)]}: a block learns "
                    "alone, so give each its own"
                )


def _refuse_unsaved(block: Block, outline: Outline) -> None:
    for name, tensor in block.weights().items():
        if tensor.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise UserError(
                f"block {outline.index} ({outline.name}) has {name!r} of {tensor.dtype}, which cannot be saved: "
                f"give one of {known}"
            )


def _refuse_other_rows(block: Block, outline: Outline, training: Training) -> None:
    wanted = PAIRS if training.contrasts else PLAIN
    if block.roles == wanted:
        return
    if block.roles == PAIRS:
        why = "learns from positive and negative rows, but training.negatives is 'none': give --training.negatives"
        raise UserError(f"block {outline.index} ({outline.name}) {why} random, or an objective without negatives")
    raise UserError(
        f"block {outline.index} ({outline.name}) learns from {EXAMPLES} alone, but training.negatives "
        f"{training.negatives!r} makes pairs of rows: give --training.negatives none"
    )


def _refuse_read_outs(made: Blueprint) -> None:
    training, blocks = made.training, len(made)
    starts = [("head_from", training.head_from)] if made.has_head else []
    starts += [("goodness_from", training.goodness_from)] if training.labelled or training.readout == "sum" else []
    for name, start in starts:
        if start >= blocks:
            raise UserError(f"training.{name} is {start}, but there are {blocks} block(s), counted from 0: give 0 to "
                            f"{blocks - 1}")  # fmt: skip
    for outline in made.outlines:
        if outline.index in made.taps and not outline.outputs.dtype.is_floating_point:
            raise UserError(f"the read-out sees block {outline.index}, whose rows are {outline.outputs}: give "
                            "--training.head false")  # fmt: skip

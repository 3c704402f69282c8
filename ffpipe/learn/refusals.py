"""Refusals of what a network cannot have: each of these raises UserError with one line that names the block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn
from torch.jit import ScriptModule

from ffpipe.config.optimizer import check_optimizer
from ffpipe.config.rules import refuse_late_read_outs
from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.block import Block
from ffpipe.learn.description import described, instead_of
from ffpipe.learn.local_fields import check_fields
from ffpipe.learn.local_item import BlockItem, Dense, Local
from ffpipe.learn.outline import Outline
from ffpipe.learn.own_blocks import check_block
from ffpipe.learn.own_modules import refuse_module, refuse_unsaved
from ffpipe.learn.spec import EXAMPLES, PAIRS, PLAIN, RowSpec
from ffpipe.learn.state_tensors import refuse_views
from ffpipe.storage.tensorfile import DTYPES
from ffpipe.system.errors import UserError


def refuse_item(item: BlockItem, index: int, kept: Collection[str], training: Training) -> None:
    """Refuse an item that no block can be made of. item: what its function made, where it was one. kept: names of
    outputs that blocks before keep."""
    if isinstance(item, Dense):
        return
    if isinstance(item, Block):
        check_block(item, index, kept, training.shards)
        return
    if not isinstance(item, Local):
        right = instead_of(item, "a torch module or an ffpipe.Local")
        raise UserError(f"what item {index} makes is {described(item)}: {right}")
    where = f"block {index} ({item.title})"
    check_fields(item, where)
    given = {"body": item.body, "objective": item.objective, "score": item.score}
    modules = {name: part for name, part in given.items() if isinstance(part, nn.Module)}
    for module in modules.values():
        refuse_module(module, where)
        refuse_unsaved(module, where)
        if isinstance(module, ScriptModule) and next(module.parameters(), None) is not None:
            raise UserError(f"{where}: a scripted module cannot be copied: give ffpipe.Local a function that makes it")
    # Here, since copies without memory show none; together, since body and objective may share memory.
    refuse_views(nn.ModuleDict(modules), where)


def refuse_shared(item: BlockItem, index: int, owners: dict[int, int]) -> None:
    """Refuse a parameter that an earlier block has. owners: by id, the block of each so far."""
    parts = [item.body, item.objective] if isinstance(item, Local) else [item]
    for part in parts:
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            if owners.setdefault(id(parameter), index) != index:
                raise UserError(
                    f"block {index} shares the parameter {name!r} with block {owners[id(parameter)]}: a block learns "
                    "alone, so give each its own"
                )


def refuse_local(item: Local, outline: Outline, kept: Mapping[str, RowSpec]) -> None:
    """Refuse names of kept outputs that no block before has, and what `refuse_learning` names."""
    refuse_learning(item.optimizer, outline)
    if missing := [name for name in item.use if name not in kept]:
        raise UserError(
            f"{outline} uses {missing[0]!r}, which no block before it keeps; there are: {', '.join(kept) or 'none'}"
        )


def refuse_learning(optimizer: Optimizer | None, outline: Outline) -> None:
    """Refuse an optimiser that does not exist, and a schedule or epochs that the run does not have."""
    rates, epochs = outline.rates, outline.rates.epochs
    if rates.schedule == "steps" and not rates.milestones:
        raise UserError(
            f"{outline}: schedule 'steps' needs training.milestones: name the epochs after which rates fall"
        )
    if optimizer is not None:
        check_optimizer(f"{outline}: optimizer", optimizer)
    if not 0 <= rates.first < (rates.last or epochs) <= epochs:
        raise UserError(
            f"{outline} learns in epochs {rates.first} to {rates.last or epochs}, but the run has {epochs}: give a "
            f"first epoch below the last, within 0 to {epochs}"
        )


def refuse_few_symbols(block: Block, outline: Outline, symbols: int) -> None:
    """Refuse a block that embeds fewer symbols than the data have: an id beyond them would fail while training."""
    for module in block.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings < symbols:
            raise UserError(
                f"{outline} embeds {module.num_embeddings} symbols, but the data have {symbols}: give {symbols} or more"
            )


def refuse_roles(roles: object, outline: Outline, training: Training) -> None:
    """Refuse a block that learns from other rows than there are."""
    if roles not in (PAIRS, PLAIN):
        raise UserError(f"{outline} learns from the roles {roles!r}, which do not exist: give {PLAIN!r} or {PAIRS!r}")
    if roles == (PAIRS if training.contrasts else PLAIN):
        return
    if roles == PAIRS:
        why = "learns from positive and negative rows, but training.negatives is 'none': give --training.negatives"
        raise UserError(f"{outline} {why} random, or an objective without negatives")
    raise UserError(
        f"{outline} learns from {EXAMPLES} alone, but training.negatives {training.negatives!r} makes pairs of "
        "rows: give --training.negatives none"
    )


def refuse_block(block: Block, outline: Outline, kept: Collection[str], training: Training) -> None:
    """Refuse a block that takes other rows than it gets, that cannot be saved, or whose output is kept under the name
    of another."""
    if block.inputs != outline.inputs:
        raise UserError(f"{outline} takes rows of {block.inputs}, but it gets {outline.inputs}")
    if training.shards > 1 and block.undivided:
        raise UserError(f"{outline} {block.undivided}, so minibatches cannot be cut: give --training.shards 1")
    for name, tensor in block.weights().items():
        if tensor.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise UserError(f"{outline} has {name!r} of {tensor.dtype}, which cannot be saved: give one of {known}")
    if outline.keep in kept:
        raise UserError(f"block {outline.index} keeps {outline.keep!r}, which an earlier one keeps: give another name")


def refuse_read_outs(training: Training, outlines: Sequence[Outline], taps: range) -> None:
    """Refuse a read-out that begins behind the last block, or that sees rows that are not floating-point numbers."""
    refuse_late_read_outs(training, len(outlines), f"there are {len(outlines)} block")
    for outline in outlines:
        if outline.index in taps and not outline.outputs.dtype.is_floating_point:
            rows = f"the read-out sees block {outline.index}, whose rows are {outline.outputs}"
            raise UserError(f"{rows}: give --training.head false")

"""Refusals of what a network cannot have: each of these raises UserError with one line that names the block."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from ffpipe.config.optimizer import check_optimizer
from ffpipe.config.rules import refuse_late_read_outs
from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.block import Block
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.outline import Outline
from ffpipe.learn.spec import EXAMPLES, PAIRS, PLAIN
from ffpipe.storage.tensorfile import DTYPES
from ffpipe.system.errors import UserError


def refuse_missing(outline: Outline, kept: Collection[str]) -> None:
    """Refuse names of kept outputs that no block before has."""
    if missing := [name for name in outline.use if name not in kept]:
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
    # Positions are embedded too, as a rule, and may be fewer: what an embedding is for, no module tells.
    sizes = [module.num_embeddings for module in block.modules() if isinstance(module, nn.Embedding)]
    if (most := max(sizes, default=symbols)) < symbols:
        raise UserError(f"{outline} embeds {most} symbols, but the data have {symbols}: give {symbols} or more")


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
    """Refuse a block that gets other rows than it takes, that cannot be saved, or that keeps under a taken name."""
    if block.inputs != outline.inputs:
        raise UserError(f"{outline} takes rows of {block.inputs}, but it gets {outline.inputs}")
    if training.shards > 1 and block.undivided:
        raise UserError(f"{outline} {block.undivided}, so minibatches cannot be cut: give --training.shards 1")
    # The objective alone is asked, since batch normalisation of the body may be over a part.
    if training.accumulation > 1 and isinstance(block, LocalBlock) and (why := block.objective.undivided):
        raise UserError(f"{outline} {why}, so minibatches cannot be cut: give --training.accumulation 1")
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

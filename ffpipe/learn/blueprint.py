"""The network of a run before it exists: what each block takes and makes, and how a stage makes its own alone.

    config, data ──► items ──► outlines (on the meta device: shapes, no memory) ──► a block, where it lives

It is plain data that any process gets; the weights of a block come from the seed and its index, so that it does not
matter who makes it, nor what else is made there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from typing import Any

import torch
from torch import nn

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.schema import BlockConfig, Options, Training
from ffpipe.data.splits import Splits
from ffpipe.learn.block import Block
from ffpipe.learn.chained import Chained
from ffpipe.learn.dense import FFDense
from ffpipe.learn.dense_shards import ShardedDense
from ffpipe.learn.feeder import Feeder, make_feeder
from ffpipe.learn.goodness import GoodnessContrast
from ffpipe.learn.items import CPU, META, body_of, fresh, items_of, local_block, prepared, resolved, shape_of
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.local_item import BlockItem, Dense, Local
from ffpipe.learn.objective_trial import Trial
from ffpipe.learn.outline import Outline
from ffpipe.learn.own_items import refuse_item, refuse_shared, refuse_tied
from ffpipe.learn.own_modules import refuse_unsaved
from ffpipe.learn.rates import Rates
from ffpipe.learn.readout import Head
from ffpipe.learn.refusals import (
    refuse_block,
    refuse_few_symbols,
    refuse_learning,
    refuse_missing,
    refuse_read_outs,
    refuse_roles,
)
from ffpipe.learn.shard_trial import ShardTrial
from ffpipe.learn.spec import IN_TURNS, NEUTRAL, PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.learn.turns import Turns
from ffpipe.learn.user_model import ModelCode, of_users
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import Input


# Told apart by identity: options are dictionaries, which have no hash, and planning keeps costs by network (cost.py).
@dataclass(frozen=True, eq=False)
class Blueprint:
    """A network that can be made block by block.

    takes: what the manifest of a snapshot tells of the input. inputs, labels: one row of the first block's input, and
    the label of one example. code: where a user's function comes from; function: the function itself, where it was
    given as an object. positive_steps: as in turns.py.
    """

    training: Training
    takes: Input
    inputs: RowSpec
    labels: RowSpec
    steps_per_epoch: int
    code: ModelCode | None = None
    function: Callable[..., Any] | None = None
    outlines: tuple[Outline, ...] = ()
    positive_steps: int = 0

    def __len__(self) -> int:
        return len(self.outlines)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the items, which may hold weights: who gets the blueprint makes its own."""
        return {name: value for name, value in vars(self).items() if name not in ("_items", "_shells")}

    @property
    def layout(self) -> RowLayout:
        """The row layout of a minibatch. Not a job's layout, which is its cut into stages (pipeline/job.py)."""
        training = self.training
        if training.in_turns:
            return RowLayout(training.batch_size, IN_TURNS)
        # Rows without labels are neutral as they are: the read-out sees the positive ones.
        passing = (NEUTRAL,) if self.has_head and training.labelled else ()
        return RowLayout(training.batch_size, PAIRS if training.contrasts else PLAIN, passing)

    @property
    def shard(self) -> RowLayout:
        """The rows of one shard of a minibatch."""
        return replace(self.layout, batch=self.training.batch_size // self.training.shards)

    @property
    def has_head(self) -> bool:
        """True where a linear read-out is trained on the outputs of blocks."""
        return self.training.head and self.training.method != "backprop"

    @property
    def taps(self) -> range:
        """Blocks whose outputs that read-out sees."""
        return range(self.training.head_from, len(self)) if self.has_head else range(0)

    @property
    def is_closed_form(self) -> bool:
        """True where all blocks are dense layers in closed form, whose large tensors are those of a workspace."""
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
        return self.takes.classes * self.training.reads_goodness + self.has_head

    @property
    def examples_at_once(self) -> int:
        """Examples that an evaluation passes through a block at once: as many as have no more rows than a minibatch."""
        return max(1, self.layout.rows // self.rows_of_example)

    @property
    def kept(self) -> dict[str, int]:
        """The block that makes each output that is kept, by its name."""
        return {outline.keep: outline.index for outline in self.outlines if outline.keep}

    @property
    def turns(self) -> Turns:
        """The roles of the rows of each step."""
        return Turns(self.steps_per_epoch, self.positive_steps)

    @property
    def rates(self) -> Rates:
        """Learning rates of the whole run: of the linear read-out, and of blocks that have none of their own."""
        training, steps = self.training, self.steps_per_epoch
        return Rates(training.schedule, steps, training.epochs, milestones=training.milestones, decay=training.decay)

    def make(self, index: int, workspace: Workspace) -> Block:
        """Make a block with its first weights on the device of the workspace. Raises UserError."""
        outline, training, device = self.outlines[index], self.training, workspace.device
        item = resolved((self._shells if device == META else self._items)[index], index, outline.inputs, training)
        if isinstance(item, Block):
            return prepared(fresh(item, device), str(outline), device=device)
        if isinstance(item, Local):
            body = body_of(item, outline, training, device)
            return local_block(item, body, outline, self.takes.classes, training, device)
        assert isinstance(item, Dense)  # resolved makes no function
        return _dense(item, index, outline.inputs, training, workspace)

    def make_head(self, workspace: Workspace) -> Head:
        """Make the linear read-out with its first weights."""
        widths = {index: self.outlines[index].outputs.size for index in self.taps}
        return Head(self.training, widths, self.takes.classes, workspace)

    def make_feeder(self, splits: Splits) -> Feeder:
        """Make what turns examples into the rows of the first block."""
        return make_feeder(self.training, splits, self.inputs)

    def items(self, device: torch.device) -> list[BlockItem]:
        """Return what each block is made from; on META without memory. Raises UserError."""
        if self.training.method != "backprop":
            return items_of(self.training, self.code, self.function, device)
        return [_end_to_end(self, device)]

    # Kept, or a user's function would make the whole network again for each block of a stage.
    @cached_property
    def _items(self) -> list[BlockItem]:
        return self.items(CPU)

    @cached_property
    def _shells(self) -> list[BlockItem]:
        return self.items(META)


def make_blueprint(
    training: Training,
    takes: Input,
    inputs: RowSpec,
    labels: RowSpec,
    steps_per_epoch: int,
    code: ModelCode | None = None,
    function: Callable[..., Any] | None = None,
    *,
    positive_steps: int = 0,
) -> Blueprint:
    """Work out every edge of the network that a config describes, in one place and without its weights.

    Raises UserError: items that are none, shapes that do not meet, and what refusals.py names.
    """
    bare = Blueprint(training, takes, inputs, labels, steps_per_epoch, code, function, positive_steps=positive_steps)
    return worked_out(bare)


def worked_out(bare: Blueprint) -> Blueprint:
    """Return a network with its outlines. Raises UserError as `make_blueprint` does."""
    training, inputs = bare.training, bare.inputs
    kept: dict[str, RowSpec] = {}
    owners: dict[int, int] = {}
    items: list[BlockItem] = []  # which stay, so that no other object gets the id of one
    outlines: list[Outline] = []
    for index, item in enumerate(bare.items(META)):
        items.append(resolved(item, index, inputs, training))
        # Before anything is asked of the item, which would fail in torch's own words.
        refuse_item(items[-1], index, training)
        refuse_shared(items[-1], index, owners)
        outline, block = _outlined(bare, items[-1], index, inputs, kept)
        refuse_block(block, outline, kept, training)
        # Ids of the data come to the first block alone; a later one may embed what it likes.
        if training.inputs == "tokens" and index == 0:
            refuse_few_symbols(block, outline, bare.takes.classes)
        outlines.append(outline)
        inputs = outline.outputs
        if outline.keep:
            kept[outline.keep] = outline.outputs
    made = replace(bare, outlines=tuple(outlines))
    refuse_read_outs(training, made.outlines, made.taps)
    return made


def _outlined(
    bare: Blueprint, item: BlockItem, index: int, inputs: RowSpec, kept: Mapping[str, RowSpec]
) -> tuple[Outline, Block]:
    """Return the outline of a block and the block itself, on META. kept: one row of each earlier kept output."""
    training, rates = bare.training, bare.rates
    if isinstance(item, (Local, Dense)):
        first, last = item.epochs
        rates = replace(rates, schedule=item.schedule or training.schedule, first=first, last=last)
    if isinstance(item, Local):
        # Its own rows are not known yet, but messages name the block by its outline.
        outline = Outline(index, item.title, inputs, inputs, inputs, rates, item.keep, tuple(item.use))
        refuse_learning(item.optimizer, outline)
        refuse_missing(outline, kept)
        body = body_of(item, outline, training, META)
        # The item's own module has been looked at before (refuse_item).
        if body is not item.body:
            refuse_unsaved(body, str(outline))

        # Moved from META a module would lack the numbers that it keeps beside its parameters and buffers.
        def whole() -> Local:
            """Make the item anew, which did not begin on META."""
            made = resolved(bare._items[index], index, inputs, training)
            assert isinstance(made, Local)  # as its shell is
            return made

        def body_on(device: torch.device) -> nn.Module:
            """Give the body; where it has to run, one that did not begin on META."""
            return body if device == META else body_of(whole(), outline, training, device)

        hidden, made = shape_of(body_on, [inputs, *(kept[name] for name in item.use)], training, str(outline))
        outline = replace(outline, hidden=hidden)
        local = local_block(item, body, outline, bare.takes.classes, training, META)

        def block_on(device: torch.device) -> LocalBlock:
            """Give the block; where it has to run, one that did not begin on META."""
            if device == META:
                return local
            return local_block(whole(), body_on(device), outline, bare.takes.classes, training, device)

        trial = Trial(str(outline), hidden, made, training, lambda device: block_on(device).objective)
        local.outputs = trial.outputs()
        outline = replace(outline, outputs=local.outputs)
        refuse_roles(local.roles, outline, training)
        trial.check_score(() if training.contrasts else (*bare.labels.shape, bare.takes.classes))
        # The kinds of ffpipe keep to their rows; a checkpoint around them is seen in a trial alone.
        if training.shards > 1 and not local.undivided and (training.model or bare.function or training.checkpointing):
            labels = None if training.contrasts else bare.labels
            seen = [kept[name] for name in item.use]
            cut = ShardTrial(
                str(outline), partial(block_on, CPU), seen, labels, bare.takes.classes, bare.shard, training.seed
            )
            local.undivided = cut.undivided()
        # A user's objective may have a property of its own in this place.
        with of_users(f"the objective of {outline} cannot tell whether it is silent"):
            silent = local.objective.is_silent
        return replace(outline, silent=silent), local
    block: Block
    if isinstance(item, Block):
        block, name = item, type(item).__name__
    else:
        assert isinstance(item, Dense)  # resolved makes no function
        block, name = _dense(item, index, inputs, training, Workspace(META)), FF_DENSE
    outline = Outline(index, name, inputs, block.outputs, block.outputs, rates, block.keep, tuple(block.use))
    refuse_missing(outline, kept)
    refuse_roles(block.roles, outline, training)
    if isinstance(item, Dense):
        refuse_learning(item.optimizer, outline)
    return outline, block


def _dense(item: Dense, index: int, inputs: RowSpec, training: Training, workspace: Workspace) -> FFDense:
    """Make a layer in closed form with its first weights."""
    training = replace(training, optimizer=item.optimizer or training.optimizer)
    kind = ShardedDense if training.shards > 1 else FFDense
    return kind(index, inputs.size, item.width, training, workspace)


def _end_to_end(network: Blueprint, device: torch.device) -> Local:
    """Join all blocks as the body of one, which learns by the last one's class head: the yardstick."""
    training, yardstick = network.training, network.training.yardstick
    if training.negatives != "none":
        training = replace(training, blocks=tuple(map(_without_goodness, training.blocks)))
    # Blocks as they would learn alone, of which the last one is read; by backpropagation `items` would come here again.
    training = replace(training, method="forward-forward", negatives="none", head=False, readout="last")
    parts = make_blueprint(
        training, network.takes, network.inputs, network.labels, network.steps_per_epoch, network.code, network.function
    )

    def body() -> nn.Module:
        # `items.made_on` calls this on META first, and where that fails on the CPU.
        here = Workspace(torch.get_default_device())
        return Chained([parts.make(i, here) for i in range(len(parts))], checkpointing=training.checkpointing)

    # The last block may be made by a function, with a loss of the user's own: the yardstick learns by that one.
    at = len(parts) - 1
    last = resolved((parts._shells if device == META else parts._items)[at], at, parts.outlines[at].inputs, training)
    if not isinstance(last, Local):
        return Local(body, optimizer=yardstick, name="end-to-end")
    refuse_tied(last, at)
    return Local(body, last.objective, last.options, yardstick, name="end-to-end", score=last.score)


def _without_goodness(block: BlockConfig) -> BlockConfig:
    """Return a block of pairs for a class head, others as they are; a ReLU that was the objective's is the body's."""
    if block.objective not in ("", "goodness"):
        return block
    given = block.objective_options
    rectified: Options = {"activation": "relu"} if given.get("rectify") else {}
    others = {name: value for name, value in given.items() if name not in signature(GoodnessContrast).parameters}
    kind = "dense" if block.kind == FF_DENSE else block.kind
    return replace(block, kind=kind, objective="", objective_options=others, options={**block.options, **rectified})

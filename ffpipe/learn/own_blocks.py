"""A Block of the user's held against what a block must have. It may be of any class, and sets its attributes itself."""

from __future__ import annotations

from collections.abc import Collection

from ffpipe.learn.block import Block
from ffpipe.learn.description import described
from ffpipe.learn.own_modules import refuse_module, refuse_unsaved
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.user_model import of_users
from ffpipe.system.errors import UserError

# Methods of an optimiser with a state (optim.Optimizing).
STATE = ("settle", "state", "load", "contents")


def check_block(block: Block, index: int, kept: Collection[str], shards: int) -> None:
    """Check a block before it is asked anything. index: its place in the network. kept: names of outputs of the blocks
    before. shards: into which a minibatch is cut. Raises UserError."""
    where = f"block {index} ({type(block).__name__})"
    refuse_module(block, where)
    with of_users(f"{where} cannot be read"):  # an attribute may be a property
        wrong = _wrong(block, index, kept, shards)
    if wrong:
        raise UserError(f"{where}: {wrong}")
    if type(block).set_weights is Block.set_weights:  # which copies into what state_dict has
        refuse_unsaved(block, where)


def _wrong(block: Block, index: int, kept: Collection[str], shards: int) -> str:
    """Return what is wrong and what would be right; "" where nothing is."""
    for name in ("index", "inputs", "outputs"):
        if not hasattr(block, name):
            return f"it has no {name}: set self.{name} in __init__"
    # A bool is an int too.
    if type(block.index) is not int or block.index != index:
        return f"its index is {block.index!r}: give its place in the network, which is {index}"
    for name in ("inputs", "outputs"):
        given = getattr(block, name)
        if not isinstance(given, RowSpec):
            return f"its {name} is {described(given)}: give an ffpipe.RowSpec, as RowSpec((64,), torch.float32)"
    if not isinstance(block.keep, str):
        return f"its keep is {block.keep!r}: give a text"
    if not isinstance(block.use, (tuple, list)) or not all(isinstance(name, str) for name in block.use):
        return f"its use is {block.use!r}: give a tuple of names that earlier blocks keep, as ('early',)"
    if missing := [name for name in block.use if name not in kept]:
        return f"it uses {missing[0]!r}, which no block before it keeps; there are: {', '.join(kept) or 'none'}"
    if block.optimizer is not None and not all(callable(getattr(block.optimizer, each, None)) for each in STATE):
        return f"its optimizer is {described(block.optimizer)}: give an object with {', '.join(STATE)}, or None"
    if block.rate is not None and not isinstance(block.rate, (int, float)):
        return f"its rate is {described(block.rate)}: give a number, or None"
    # A block that cannot be cut needs no learn_shards: refuse_block says what to give.
    divided = shards > 1 and not block.undivided
    for name in ("score", "learn_shards" if divided else "learn", "pass_on"):
        if getattr(getattr(block, name), "__func__", None) is getattr(Block, name):
            return f"it has no {name} of its own: write one, as ffpipe.Block.{name} says"
    return ""

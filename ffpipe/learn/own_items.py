"""Items of a user's held against what a block can be made of, before anything is asked of them, which would fail in
torch's own words. Python holds no attribute against its annotation, and a Block of the user's sets its own.

The functions that begin with _wrong return what is wrong and what would be right; "" where nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.jit import ScriptModule

from ffpipe.config.schema import Training
from ffpipe.learn.block import Block
from ffpipe.learn.description import described, instead_of
from ffpipe.learn.local_item import BlockItem, Dense, Local
from ffpipe.learn.own_modules import refuse_module, refuse_unsaved
from ffpipe.learn.rates import SCHEDULES
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.state_tensors import refuse_views
from ffpipe.learn.user_model import of_users
from ffpipe.system.errors import UserError, nearest

# Words that a field of a Local may be, beside "" for that of the config.
WORDS = {"schedule": SCHEDULES, "hand_on": ("before", "after")}
# Methods of an optimiser with a state (optim.Optimizing).
STATE = ("flush_denormals", "state", "load", "contents")


def refuse_item(item: BlockItem, index: int, training: Training) -> None:
    """Raise UserError for an item that no block can be made of. item: what its function made, where it was one."""
    if isinstance(item, Block):
        _refuse_block(item, index, training.shards)
    elif isinstance(item, Local):
        _refuse_local(item, f"block {index} ({item.title})")
    elif not isinstance(item, Dense):
        right = instead_of(item, "a torch module or an ffpipe.Local")
        raise UserError(f"what item {index} makes is {described(item)}: {right}")


def refuse_shared(item: BlockItem, index: int, owners: dict[int, int]) -> None:
    """Raise UserError for a parameter that an earlier block has. owners: by id, the block of each so far."""
    parts = [item.body, item.objective] if isinstance(item, Local) else [item]
    for part in parts:
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            if owners.setdefault(id(parameter), index) != index:
                raise UserError(
                    f"block {index} shares the parameter {name!r} with block {owners[id(parameter)]}: a block learns "
                    "alone, so give each its own"
                )


def refuse_tied(item: Local, index: int) -> None:
    """Raise UserError for a tensor that body and objective of the last block share: by backpropagation they are in two
    modules, of which each would have its own."""
    parts = [part for part in (item.objective, item.score) if isinstance(part, nn.Module)]
    if isinstance(item.body, nn.Module) and parts:
        own = {id(tensor) for tensor in (*item.body.parameters(), *item.body.buffers())}
        named = (each for part in parts for each in (*part.named_parameters(), *part.named_buffers()))
        if shared := [name for name, tensor in named if id(tensor) in own]:
            raise UserError(
                f"block {index}: its objective shares {shared[0]!r} with its body, which backpropagation cannot keep "
                "one: give each its own"
            )


def _refuse_block(block: Block, index: int, shards: int) -> None:
    where = f"block {index} ({type(block).__name__})"
    refuse_module(block, where)
    with of_users(f"{where} cannot be read"):  # an attribute may be a property
        wrong = _wrong_block(block, index, shards)
    if wrong:
        raise UserError(f"{where}: {wrong}")
    if type(block).set_weights is Block.set_weights:  # which copies into what state_dict has
        refuse_unsaved(block, where)


def _refuse_local(item: Local, where: str) -> None:
    if wrong := _wrong_local(item):
        raise UserError(f"{where}: {wrong}")
    given = {"body": item.body, "objective": item.objective, "score": item.score}
    modules = {name: part for name, part in given.items() if isinstance(part, nn.Module)}
    for module in modules.values():
        refuse_module(module, where)
        refuse_unsaved(module, where)
        if isinstance(module, ScriptModule) and next(module.parameters(), None) is not None:
            raise UserError(f"{where}: a scripted module cannot be copied: give ffpipe.Local a function that makes it")
    # Here, since copies without memory show none; together, since body and objective may share memory.
    refuse_views(nn.ModuleDict(modules), where)


def _wrong_block(block: Block, index: int, shards: int) -> str:
    """Return what is wrong with an attribute. shards: into which a minibatch is cut."""
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
    if wrong := _wrong_names(block):
        return wrong
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


def _wrong_local(item: Local) -> str:
    """Return what is wrong with a field by itself; the optimiser's are held against torch elsewhere."""
    if not callable(item.body):
        return f"its body is {described(item.body)}: give a torch module or a function that makes one"
    if not isinstance(item.name, str):
        return f"its name is {item.name!r}: give a text"
    for name, known in WORDS.items():
        given = getattr(item, name)
        if not isinstance(given, str) or given not in ("", *known):
            return f"{name} is {given!r}; {nearest(given if isinstance(given, str) else '', known)}"
    if wrong := _wrong_names(item):
        return wrong
    if not isinstance(item.options, Mapping) or not all(isinstance(name, str) for name in item.options):
        return f"options is {item.options!r}: give a dictionary, as {{'kind': 'groups'}}"
    if not _are_epochs(item.epochs):
        return (
            f"epochs is {item.epochs!r}: give the first epoch in which it learns and the one before which it ends, 0 "
            "for the end, as (0, 4) or (2, 0)"
        )
    return _wrong_objective(item)


def _wrong_objective(item: Local) -> str:
    """Return what is wrong with an objective and with what belongs to it."""
    for name, given in (("objective", item.objective), ("score", item.score)):
        # A class can be called as well, and would be taken for a loss function.
        if isinstance(given, type):
            return f"its {name} is {described(given)}: {instead_of(given, 'a function')}"
    if item.score is not None and not callable(item.score):
        return f"its score is {described(item.score)}: give a function of what the body makes"
    if item.options and item.objective is not None and not isinstance(item.objective, str):
        return "options go with the objectives 'class-head' and 'goodness': leave them out"
    return ""


def _are_epochs(given: object) -> bool:
    """Return whether these are two epochs of which the first comes before the last, or the last is the end."""
    # By type(), since a bool is an int too.
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(type(epoch) is int for epoch in given):
        return False
    first, last = given
    return bool(first >= 0 and (last == 0 or first < last))


def _wrong_names(item: Local | Block) -> str:
    if not isinstance(item.keep, str):
        return f"its keep is {item.keep!r}: give a text"
    if not isinstance(item.use, (tuple, list)) or not all(isinstance(name, str) for name in item.use):
        return f"its use is {item.use!r}: give a tuple of names that earlier blocks keep, as ('early',)"
    return ""

"""Modules that no block can be made of: begun without torch's own start, compared by value, or with a state that no
tensor of theirs holds."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from ffpipe.learn.description import described
from ffpipe.learn.user_model import of_users
from ffpipe.system.errors import UserError

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# A run that is resumed, or a stage that is made again, would draw other numbers.
UNSAVED = "whose state is not saved: draw from torch's own, which is set at each step, or make one in each step"


def refuse_module(module: nn.Module, where: str) -> None:
    """Raise UserError for a module that torch cannot list, or that would not be saved whole. where: names it."""
    for path, part in _parts(module, "", set()):
        name = f"{type(part).__name__} ({path})" if path else type(part).__name__
        if "_modules" not in vars(part) and not isinstance(part, ScriptModule):
            raise UserError(f"{where}: __init__ of {name} does not call super().__init__(): make that its first line")
        # torch keeps modules in sets, where those that are equal would be one.
        if type(part).__hash__ is not nn.Module.__hash__:
            raise UserError(
                f"{where}: {name} is compared by its values, as a dataclass is: give @dataclass(eq=False), or no __eq__"
            )
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse:
            raise UserError(f"{where}: {name} makes sparse gradients, which are not summed here: give sparse=False")
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        if lazy := [own for own, kept in tensors if is_lazy(kept)]:
            raise UserError(
                f"{where}: {name} makes its {lazy[0]!r} when it is first called: give its sizes, as a function of a "
                "parameter `inputs` knows them"
            )
        # Blocks are copies, and copy.deepcopy takes no tensor with a graph.
        if graphs := [own for own, kept in vars(part).items() if isinstance(kept, Tensor) and kept.grad_fn is not None]:
            raise UserError(
                f"{where}: {name} keeps {graphs[0]!r}, a tensor with a graph (as torch.nn.utils.weight_norm does): "
                "make it in forward, or give torch.nn.utils.parametrizations"
            )
        if drawn := [own for own, kept in vars(part).items() if isinstance(kept, GENERATORS)]:
            raise UserError(f"{where}: {name} keeps the generator {drawn[0]!r}, {UNSAVED}")
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            raise UserError(
                f"{where}: {name} has extra state (get_extra_state), which is not saved: keep it in a buffer "
                "(register_buffer)"
            )


def refuse_unsaved(module: nn.Module, where: str) -> None:
    """Raise UserError where a state_dict of the user's own has something else than the parameters and buffers."""
    with of_users(f"{where}: its state_dict cannot be made"):
        # keep_vars gives the tensors themselves, which are told by their ids.
        saved = dict(module.state_dict(keep_vars=True))
    parameters = {id(parameter): name for name, parameter in module.named_parameters()}
    own = parameters.keys() | {id(buffer) for buffer in module.buffers()}
    right = "leave state_dict as torch has it"
    for name, came in saved.items():
        if id(came) not in own:
            raise UserError(
                f"{where}: its state_dict has {name!r}, {described(came)} that is none of its parameters and buffers: "
                f"{right}"
            )
    # Not buffers: torch itself leaves out those that are not persistent.
    if left := parameters.keys() - set(map(id, saved.values())):
        raise UserError(f"{where}: its state_dict leaves out the parameter {parameters[min(left)]!r}: {right}")


def _parts(module: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and all within it with their paths, also where torch cannot."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, part in (vars(module).get("_modules") or {}).items():
        if part is not None:
            yield from _parts(part, f"{path}.{name}" if path else name, seen)

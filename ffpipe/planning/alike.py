"""Blocks that are alike, of which one shows what a step of all of them costs. It does not know what is found out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ffpipe.learn.block import Block
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.dense import FFDense
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.workspace import Workspace

T = TypeVar("T")
# The attributes of every module: its parts, and torch's own.
_OF_ALL = frozenset(vars(nn.Module()))


def of_each_block(network: Blueprint, device: torch.device, find: Callable[[Block], T]) -> tuple[T, ...]:
    """Find something out about every block, made on this device; once for all blocks that are alike."""
    found: dict[object, T] = {}
    of_blocks = []
    for outline in network.outlines:
        block = network.make(outline.index, Workspace(device))
        kept = tuple(network.outlines[network.kept[name]].outputs for name in outline.use)
        key = (outline.inputs, outline.outputs, outline.name, kept, _looks(block))
        if key not in found:
            found[key] = find(block)
        of_blocks.append(found[key])
    return tuple(of_blocks)


def _looks(block: Block) -> tuple[object, ...]:
    """Return what blocks that are alike have in common beside their rows."""
    # The text of a module shows neither the shapes of parameters of its own nor those of its rows.
    shapes = tuple((name, tuple(each.shape), each.requires_grad) for name, each in block.weights().items())
    # Nor does it show how the block learns, nor what else its modules have. A user's own block has its index there, so
    # that no other is like it.
    parts = block.children() if isinstance(block, (LocalBlock, FFDense)) else [block]
    beside = tuple(_beside(module, block.index) for part in parts for module in part.modules())
    return shapes, beside, str(block), repr(getattr(block, "config", None))


def _beside(module: nn.Module, index: int) -> tuple[object, ...]:
    """Return the attributes of a module, as how many heads it has or how often it does what it does. index: of its
    block, which is among them where only another object is told by its place in memory."""
    shown: list[object] = []
    for name, value in vars(module).items():
        if name in _OF_ALL:
            continue
        if inspect.isfunction(value) or inspect.isbuiltin(value):
            shown.append((name, value))  # which stays, and so keeps its place
            continue
        try:
            text = repr(value)
            if text == object.__repr__(value) and hasattr(value, "__dict__"):
                text = f"{type(value)} of {vars(value)}"
        except Exception:  # a user's own, so that no other block is like this one
            text = object.__repr__(value)
        shown.append((name, text, index if " at 0x" in text else None))
    return tuple(shown)

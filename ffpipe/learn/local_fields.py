"""The fields of a Local held against their types and words, which Python does not do. It knows nothing of the network
around the block."""

from __future__ import annotations

from collections.abc import Mapping

from ffpipe.learn.description import described, instead_of
from ffpipe.learn.local_item import Local
from ffpipe.learn.rates import SCHEDULES
from ffpipe.system.errors import UserError, nearest

# Words that a field may be, beside "" for that of the config.
WORDS = {"schedule": SCHEDULES, "hand_on": ("before", "after")}


def check_fields(item: Local, where: str) -> None:
    """Check each field by itself; the optimiser's are held against torch elsewhere. where: names the block. Raises
    UserError."""
    if wrong := _wrong(item):
        raise UserError(f"{where}: {wrong}")


def _wrong(item: Local) -> str:
    """Return what is wrong and what would be right; "" where nothing is."""
    if not callable(item.body):
        return f"its body is {described(item.body)}: give a torch module or a function that makes one"
    for name, given in (("name", item.name), ("keep", item.keep)):
        if not isinstance(given, str):
            return f"{name} is {given!r}: give a text"
    for name, known in WORDS.items():
        given = getattr(item, name)
        if not isinstance(given, str) or given not in ("", *known):
            return f"{name} is {given!r}; {nearest(given if isinstance(given, str) else '', known)}"
    if not isinstance(item.use, (tuple, list)) or not all(isinstance(name, str) for name in item.use):
        return f"use is {item.use!r}: give a tuple of names that earlier blocks keep, as ('early',)"
    if not isinstance(item.options, Mapping) or not all(isinstance(name, str) for name in item.options):
        return f"options is {item.options!r}: give a dictionary, as {{'kind': 'groups'}}"
    if not _are_epochs(item.epochs):
        return (
            f"epochs is {item.epochs!r}: give the first epoch in which it learns and the one before which it ends, 0 "
            "for the end, as (0, 4) or (2, 0)"
        )
    return _wrong_objective(item)


def _are_epochs(given: object) -> bool:
    """Return whether these are two epochs of which the first comes before the last, or the last is the end."""
    # By type(), since a bool is an int too.
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(type(epoch) is int for epoch in given):
        return False
    first, last = given
    return bool(first >= 0 and (last == 0 or first < last))


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

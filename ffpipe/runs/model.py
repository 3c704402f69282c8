"""The user's network of a run: found by name with the user's consent, or taken as the object that it is.

A name in a config or a run folder may be a stranger's: it is imported only where the user has named it too, now.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ffpipe.config.schema import Config
from ffpipe.learn.user_model import Consent, changed, find, refuse_stale
from ffpipe.pipeline.job import Model
from ffpipe.system.errors import UserError, one_line, refuse_other

# A function that returns blocks, or its name as package.module:function or file.py:function.
Given = str | Callable[..., Any]


def with_model(
    config: Config, given: Given | None, allowed: Iterable[str], where: str, recorded: str | None = None
) -> tuple[Config, Model]:
    """Return the config with the model that it is to have, and the model.

    given: what the user names or hands over now. allowed: names of code that the user allows. where: what names the
    code if nothing is given, for messages. recorded: digests of the source that a run began with, empty where they are
    not known; None where no run has begun. Raises UserError: code without consent, another function than that of the
    run, code that cannot be found or that has changed.
    """
    training = config.training
    if given is not None:
        right = "the function that returns its blocks, not what it returns, or its name as net.py:blocks"
        refuse_other(given, (str, Callable), "model", right)  # type: ignore[arg-type]  # a class to isinstance
    if given is not None and recorded is not None:
        _refuse_other(training.model, given, where)
    if given is not None and not isinstance(given, str):
        name = _name(given)
        return replace(config, training=replace(training, model=name)), Model(function=given)
    if given is not None:
        config = replace(config, training=replace(training, model=given))
    elif not training.model:
        return config, Model()
    elif not Consent(frozenset([allowed] if isinstance(allowed, str) else allowed)).allows(training.model):
        raise Consent().refuse(training.model, where)
    code = find(config.training.model)
    if recorded:
        changed(code, recorded, where)
    elif recorded is not None:
        # Not by a view: those who only read a run have none.
        why = "its past.json is missing or damaged, or has no digest of the code"
        line = f"warning: a change of {code.name} since {where} was begun would not be seen: {why}"
        print(one_line(line), file=sys.stderr, flush=True)
    refuse_stale(code)
    return replace(config, training=replace(config.training, model=code.name)), Model(code)


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"


def _refuse_other(begun: str, given: Given, where: str) -> None:
    """Raise UserError for another function than the one that a run was begun with.

    A file may have been moved: its text is held against the run's. A function that is handed over has no text, so that
    its module counts too, but for that of the program which runs, whose name is another one where it is imported.
    """
    name = given if isinstance(given, str) else _name(given)
    if not begun:
        raise UserError(f"{where} was begun without a model, not with {name}: give none")
    (module, _, function), (before, _, function_before) = name.rpartition(":"), begun.rpartition(":")
    moved = isinstance(given, str) or "__main__" in (module, before)
    if function != function_before or not (moved or module == before):
        raise UserError(f"{where} has the model {begun}, not {name}: give that one")

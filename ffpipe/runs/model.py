"""The user's network of a run: found by name with the user's consent, or taken as the object that it is.

A name in a config or a run folder may be a stranger's: it is imported only where the user has named it too, now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ffpipe.config.schema import Config
from ffpipe.learn.user_model import Consent, changed, find
from ffpipe.pipeline.job import Model
from ffpipe.system.errors import UserError

# A function that returns blocks, or its name as package.module:function or file.py:function.
Given = str | Callable[..., Any]


def with_model(
    config: Config, given: Given | None, allowed: Iterable[str], where: str, recorded: str = ""
) -> tuple[Config, Model]:
    """Return the config with the model that it is to have, and the model.

    given: what the user names or hands over now. allowed: names of code that the user allows. where: what names the
    code if nothing is given, for messages. recorded: SHA-256 of the source that a run began with. Raises UserError:
    code without consent, code that cannot be found or that has changed.
    """
    training = config.training
    if given is not None and not isinstance(given, str):
        name = f"{getattr(given, '__module__', '')}:{getattr(given, '__qualname__', type(given).__name__)}"
        if training.model and recorded and training.model != name:
            raise UserError(f"{where} has the model {training.model}, not {name}: give that one")
        return replace(config, training=replace(training, model=name)), Model(function=given)
    if given is not None:
        config = replace(config, training=replace(training, model=given))
    elif not training.model:
        return config, Model()
    elif not Consent(frozenset(allowed)).allows(training.model):
        raise Consent().refuse(training.model, where)
    code = find(config.training.model)
    if recorded:
        changed(code, recorded, where)
    return replace(config, training=replace(config.training, model=code.name)), Model(code)

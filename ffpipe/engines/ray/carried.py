"""A user's function that goes to stages as an object: by value where it has no name to be imported by.

Nothing of it is read from a file: it travels between processes of one run.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ray import cloudpickle

from ffpipe.learn.blueprint import Blueprint


@dataclass(frozen=True)
class Carried:
    """The function, loaded when it is called first. path: folders in which the driver finds modules."""

    pickled: bytes
    path: tuple[str, ...]

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself. Modules that it names are looked for where the driver found them."""
        # At the end, where none of them can take the place of a module that stages have.
        sys.path += [folder for folder in self.path if folder not in sys.path]
        loaded: Callable[..., Any] = cloudpickle.loads(self.pickled)
        return loaded

    @property
    def __signature__(self) -> inspect.Signature:
        # `inspect` asks for this name: the options of a config are held against it (learn/model_options.py).
        return inspect.signature(self.function)

    def __call__(self, **options: Any) -> Any:
        return self.function(**options)


def sendable(network: Blueprint) -> Blueprint:
    """Return the network in a form that can be sent to stages."""
    if network.function is None or isinstance(network.function, Carried):
        return network
    return replace(network, function=Carried(cloudpickle.dumps(network.function), tuple(sys.path)))

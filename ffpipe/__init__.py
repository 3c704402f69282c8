"""ffpipe trains Forward-Forward networks through a pipeline with no backward pass.

import ffpipe

result = ffpipe.train(ffpipe.recipe("digits"))
network = ffpipe.load(result.run_dir)          # a torch.nn.Module
scores = network(images)                       # (n, classes)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ffpipe.system.environment import prepare

if TYPE_CHECKING:
    from ffpipe.config.fields import override
    from ffpipe.config.recipes import get_recipe as recipe
    from ffpipe.config.schema import Config, Data, Execution, Optimizer, Training
    from ffpipe.runs.controller import Interrupt, Result, resume, train
    from ffpipe.runs.inference import evaluate, export, load, predict
    from ffpipe.system.errors import Interrupted, RunFailed, UserError

__all__ = [
    "Config",
    "Data",
    "Execution",
    "Interrupt",
    "Interrupted",
    "Optimizer",
    "Result",
    "RunFailed",
    "Training",
    "UserError",
    "evaluate",
    "export",
    "load",
    "override",
    "predict",
    "recipe",
    "resume",
    "train",
]

prepare()

# Imported on first use: torch takes a second, and a stage's process should answer before that.
_HOMES = {
    **dict.fromkeys(["Config", "Data", "Execution", "Optimizer", "Training"], "config.schema"),
    **dict.fromkeys(["Interrupted", "RunFailed", "UserError"], "system.errors"),
    **dict.fromkeys(["evaluate", "export", "load", "predict"], "runs.inference"),
    **dict.fromkeys(["Interrupt", "Result", "resume", "train"], "runs.controller"),
    "override": "config.fields",
    "recipe": "config.recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffpipe' has no attribute {name!r}")
    home = import_module(f"ffpipe.{_HOMES[name]}")
    return getattr(home, "get_recipe" if name == "recipe" else name)

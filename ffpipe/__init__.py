"""ffpipe trains networks by local objectives, Forward-Forward first of all, through a pipeline with no backward pass.

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
    from ffpipe.config.schema import Augmentation, BlockConfig, Config, Data, Execution, Optimizer, Training
    from ffpipe.learn.block import Block
    from ffpipe.learn.class_head import ClassHead
    from ffpipe.learn.goodness import GoodnessContrast
    from ffpipe.learn.local_item import Local
    from ffpipe.learn.objectives import Learned, Objective
    from ffpipe.learn.spec import RowLayout, RowSpec
    from ffpipe.reports import write_report
    from ffpipe.runs.controller import resume, train
    from ffpipe.runs.export import export
    from ffpipe.runs.inference import evaluate, load, predict
    from ffpipe.runs.interrupt import Interrupt
    from ffpipe.runs.run import Result
    from ffpipe.system.errors import Interrupted, RunFailed, UserError
    from ffpipe.telemetry.callbacks import Callback, RunStart, Speed

__all__ = [
    "Augmentation",
    "Block",
    "BlockConfig",
    "Callback",
    "ClassHead",
    "Config",
    "Data",
    "Execution",
    "GoodnessContrast",
    "Interrupt",
    "Interrupted",
    "Learned",
    "Local",
    "Objective",
    "Optimizer",
    "Result",
    "RowLayout",
    "RowSpec",
    "RunFailed",
    "RunStart",
    "Speed",
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
    "write_report",
]

prepare()

# Imported on first use: torch takes a second, and a stage's process should answer before that.
_HOMES = {
    **dict.fromkeys(
        ["Augmentation", "BlockConfig", "Config", "Data", "Execution", "Optimizer", "Training"], "config.schema"
    ),
    "Block": "learn.block",
    "ClassHead": "learn.class_head",
    "GoodnessContrast": "learn.goodness",
    "Local": "learn.local_item",
    **dict.fromkeys(["Learned", "Objective"], "learn.objectives"),
    **dict.fromkeys(["RowLayout", "RowSpec"], "learn.spec"),
    **dict.fromkeys(["Interrupted", "RunFailed", "UserError"], "system.errors"),
    **dict.fromkeys(["evaluate", "load", "predict"], "runs.inference"),
    "export": "runs.export",
    "write_report": "reports",
    **dict.fromkeys(["resume", "train"], "runs.controller"),
    "Result": "runs.run",
    "Interrupt": "runs.interrupt",
    **dict.fromkeys(["Callback", "RunStart", "Speed"], "telemetry.callbacks"),
    "override": "config.fields",
    "recipe": "config.recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffpipe' has no attribute {name!r}")
    home = import_module(f"ffpipe.{_HOMES[name]}")
    return getattr(home, "get_recipe" if name == "recipe" else name)

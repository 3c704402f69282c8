"""ffpipe trains networks by local objectives, Forward-Forward first of all, through a pipeline with no backward pass.

import ffpipe

result = ffpipe.train(ffpipe.recipe("digits"))
network = ffpipe.load(result.run_dir)          # a torch.nn.Module
scores = network(images)                       # (n, classes)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ffpipe.system.environment import prepare

# For type checkers and editors, which do not run `__getattr__` below.
if TYPE_CHECKING:
    from ffpipe.config.fields import override
    from ffpipe.config.recipes import get_recipe as recipe
    from ffpipe.config.schema import Augmentation, BlockConfig, Config, Data, Execution, Optimizer, Training
    from ffpipe.data.discover import with_data
    from ffpipe.data.examples import Examples
    from ffpipe.data.splits import Splits, load_splits
    from ffpipe.learn.block import Block
    from ffpipe.learn.class_head import ClassHead
    from ffpipe.learn.goodness import GoodnessContrast
    from ffpipe.learn.local_item import Local
    from ffpipe.learn.network import Network
    from ffpipe.learn.objectives import Learned, Objective
    from ffpipe.learn.spec import RowLayout, RowSpec
    from ffpipe.reports import write_report
    from ffpipe.runs.controller import resume, train
    from ffpipe.runs.export import export
    from ffpipe.runs.inference import Errors, Prediction, evaluate, load, predict
    from ffpipe.runs.interrupt import Interrupt
    from ffpipe.runs.run import Result
    from ffpipe.runs.view import ConsoleView, View
    from ffpipe.system.errors import Interrupted, RunFailed, UserError
    from ffpipe.telemetry.callbacks import Callback, RunStart, Speed
    from ffpipe.telemetry.report import Evaluation, LayerRow, RecoveryNote

__all__ = [
    "Augmentation",
    "Block",
    "BlockConfig",
    "Callback",
    "ClassHead",
    "Config",
    "ConsoleView",
    "Data",
    "Errors",
    "Evaluation",
    "Examples",
    "Execution",
    "GoodnessContrast",
    "Interrupt",
    "Interrupted",
    "LayerRow",
    "Learned",
    "Local",
    "Network",
    "Objective",
    "Optimizer",
    "Prediction",
    "RecoveryNote",
    "Result",
    "RowLayout",
    "RowSpec",
    "RunFailed",
    "RunStart",
    "Speed",
    "Splits",
    "Training",
    "UserError",
    "View",
    "evaluate",
    "export",
    "load",
    "load_splits",
    "override",
    "predict",
    "recipe",
    "resume",
    "train",
    "with_data",
    "write_report",
]

# Before any module of ffpipe can import torch, which reads these settings once.
prepare()

# Imported on first use: torch takes a second, and a stage's process should answer before that.
_NAMES = {
    "config.fields": "override",
    "config.recipes": "recipe",
    "config.schema": "Augmentation BlockConfig Config Data Execution Optimizer Training",
    "data.discover": "with_data",
    "data.examples": "Examples",
    "data.splits": "Splits load_splits",
    "learn.block": "Block",
    "learn.class_head": "ClassHead",
    "learn.goodness": "GoodnessContrast",
    "learn.local_item": "Local",
    "learn.network": "Network",
    "learn.objectives": "Learned Objective",
    "learn.spec": "RowLayout RowSpec",
    "reports": "write_report",
    "runs.controller": "resume train",
    "runs.export": "export",
    "runs.inference": "Errors Prediction evaluate load predict",
    "runs.interrupt": "Interrupt",
    "runs.run": "Result",
    "runs.view": "ConsoleView View",
    "system.errors": "Interrupted RunFailed UserError",
    "telemetry.callbacks": "Callback RunStart Speed",
    "telemetry.report": "Evaluation LayerRow RecoveryNote",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffpipe' has no attribute {name!r}")
    home = import_module(f"ffpipe.{_HOMES[name]}")
    return getattr(home, "get_recipe" if name == "recipe" else name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])

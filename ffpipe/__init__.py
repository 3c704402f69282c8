"""ffpipe trains Forward-Forward networks through a pipeline with no backward pass.

import ffpipe

result = ffpipe.train(ffpipe.recipe("digits"))
network = ffpipe.load(result.run_dir)          # a torch.nn.Module
scores = network(images)                       # (n, classes)
"""

from ffpipe.config import Config, Data, Execution, Optimizer, Training, override
from ffpipe.errors import RunFailed, UserError
from ffpipe.inference import evaluate, export, load, predict
from ffpipe.recipes import get_recipe as recipe
from ffpipe.run import Result, train

__all__ = [
    "Config",
    "Data",
    "Execution",
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
    "train",
]

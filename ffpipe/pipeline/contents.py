"""What is in the files of a snapshot: names, shapes and dtypes of tensors, as a function of the config and the step.

Stages write it and go on from it; whoever reads a file holds it against this first, without making a network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.updates import make_update
from ffpipe.learn.workspace import Workspace
from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import Contents, Kept
from ffpipe.telemetry.metrics import METER, METER_STEPS

OPTIMIZER = "optimizer."
PREDICTION = "prediction."


def snapshot_contents(training: Training, takes: checkpoint.Input, step: int) -> Mapping[str, Contents]:
    """By file. step: after which the snapshot was made."""
    widths = (takes.width, *training.dims[1:])
    files = {
        checkpoint.layer_file(i): _layer(training, (widths[i], widths[i + 1]), step) for i in range(len(widths) - 1)
    }
    return files | ({checkpoint.HEAD: _head(training, takes.classes, step)} if training.head else {})


def _layer(training: Training, shape: tuple[int, int], step: int) -> dict[str, Kept]:
    dtype = PRECISIONS[training.precision].weights
    unit = Kept(shape[1:], dtype)
    return {
        "weight": Kept(shape, dtype),
        "bias": unit,
        "mean_activity": unit,
        **_update(OPTIMIZER, training.optimizer, shape, dtype, step * training.updates, bias=True),
        **_meter(step),
    }


def _head(training: Training, classes: int, step: int) -> dict[str, Kept]:
    dtype = PRECISIONS[training.precision].weights
    contents: dict[str, Kept] = {}
    for i in training.head_layers:
        shape = (training.dims[i + 1], classes)
        contents[f"weight.{i}"] = Kept(shape, dtype)
        contents |= _update(f"{OPTIMIZER}{i}.", training.head_optimizer, shape, dtype, step, bias=False)
    # Minibatch s was predicted `lag` steps before it, and its prediction is kept until it has been trained on.
    lag = training.lookahead or 0
    prediction = Kept((training.batch_size, classes), torch.float32)
    owed = {f"{PREDICTION}{s}": prediction for s in range(max(step, lag), step + lag)}
    return contents | owed | _meter(step)


def _update(
    prefix: str, settings: Optimizer, shape: tuple[int, int], dtype: torch.dtype, step: int, *, bias: bool
) -> dict[str, Kept]:
    """What an optimiser keeps for a weight of this shape: seen on one of 2 x 3 after its first step.

    step: how many it has made.
    """
    weight = torch.zeros(2, 3, dtype=dtype)
    workspace = Workspace(weight.device)
    update = make_update(weight, weight.new_zeros(3) if bias else None, settings, weight, workspace)
    update.step(weight.new_zeros(1, 2), weight.new_zeros(1, 3), 1, 1.0)
    sizes = {1: 1, 2: shape[0], 3: shape[1]}
    return {
        f"{prefix}{name}": Kept(tuple(sizes[n] for n in tensor.shape), tensor.dtype, _largest(name, step))
        for name, tensor in update.state().items()
    }


def _largest(name: str, step: int) -> int | None:
    """Optimisers of torch count their steps, and divide by what follows from the count."""
    return step if name.endswith(".step") else None


def _meter(step: int) -> dict[str, Kept]:
    return {METER: Kept((2,), torch.float64), METER_STEPS: Kept((), torch.int64, largest=step)}

"""What is in the files of a snapshot: names, shapes and dtypes of tensors, as a function of the network and the step.

Stages write it and go on from it; whoever reads a file holds it against this first. Blocks tell it themselves, made
without memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ffpipe.learn.blueprint import META, Blueprint
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.updates import update_contents
from ffpipe.learn.workspace import Workspace
from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import Contents, Kept
from ffpipe.storage.tensorfile import Entry
from ffpipe.telemetry.metrics import METER, METER_STEPS

OPTIMIZER = "optimizer."
PREDICTION = "prediction."


def snapshot_contents(network: Blueprint, step: int) -> Mapping[str, Contents]:
    """By file. step: after which the snapshot was made."""
    files: dict[str, Contents] = {}
    for outline in network.outlines:
        block = network.make(outline.index, Workspace(META))
        files[checkpoint.layer_file(outline.index)] = block.contents(step) | meter_contents(step)
    return files | ({checkpoint.HEAD: head_contents(network, step)} if network.has_head else {})


def contents_bytes(contents: Contents) -> int:
    """Bytes of the tensors of a file."""
    return sum(Entry(kept.dtype, kept.shape).size for kept in contents.values())


def head_contents(network: Blueprint, step: int) -> dict[str, Kept]:
    """What the file of the linear read-out has."""
    training, classes = network.training, network.takes.classes
    dtype = PRECISIONS[training.precision].weights
    contents: dict[str, Kept] = {}
    for i in network.taps:
        shape = (network.outlines[i].outputs.size, classes)
        contents[f"weight.{i}"] = Kept(shape, dtype)
        update = update_contents(training.head_optimizer, shape, dtype, step, bias=False)
        contents |= {f"{OPTIMIZER}{i}.{name}": kept for name, kept in update.items()}
    # Minibatch s was predicted `lag` steps before it, and its prediction is kept until it has been trained on.
    lag = training.lookahead or 0
    prediction = Kept((training.batch_size, classes), torch.float32)
    owed = {f"{PREDICTION}{s}": prediction for s in range(max(step, lag), step + lag)}
    return contents | owed | meter_contents(step)


def meter_contents(step: int) -> dict[str, Kept]:
    """What every file has of the losses since the last row of metrics."""
    return {METER: Kept((2,), torch.float64), METER_STEPS: Kept((), torch.int64, largest=step)}
